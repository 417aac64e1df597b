#include "reduce_ops.hpp"

#include <array>

#include "reduce.hpp"
#include "runtime.hpp"

namespace thinwire::comm {
namespace {

/// MPI_User_function: inout = in op inout.
template <DType dtype, ReduceOp op>
void reduce_pair(void* in, void* inout, int* count, MPI_Datatype*) {
  auto* target = static_cast<std::byte*>(inout);
  const std::array<const std::byte*, 2> inputs{static_cast<const std::byte*>(in), target};
  reduce_in_order(dtype, op, inputs, target, *count);
}

template <DType dtype, ReduceOp op>
MpiReduction make(MPI_Datatype type) {
  MpiReduction reduction{type, MPI_OP_NULL};
  constexpr int commutes = 1;
  MpiRuntime::get().call("MPI_Op_create", MPI_Op_create, reduce_pair<dtype, op>, commutes,
                         &reduction.op);
  return reduction;
}

template <ReduceOp op>
const MpiReduction& reduction_of(DType dtype, MpiReduction for_f32) {
  static const std::array<MpiReduction, 3> by_dtype{for_f32, make<DType::f16, op>(MPI_UINT16_T),
                                                    make<DType::bf16, op>(MPI_UINT16_T)};
  return by_dtype[static_cast<std::size_t>(dtype)];
}

}  // namespace

const MpiReduction& mpi_reduction(DType dtype, ReduceOp op) {
  if (op == ReduceOp::sum) return reduction_of<ReduceOp::sum>(dtype, {MPI_FLOAT, MPI_SUM});
  static const auto max_of_f32 = make<DType::f32, ReduceOp::max>(MPI_FLOAT);
  return reduction_of<ReduceOp::max>(dtype, max_of_f32);
}

}  // namespace thinwire::comm
