#include "cuda_exchange.hpp"

#include <fmt/format.h>

#include "../exchange/algorithm.hpp"
#include "../exchange/bucket_exchange.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {

CudaExchange::CudaExchange(const CudaParts& parts, compress::Plan plan)
    : plan_{std::move(plan)}, rank_{parts.rank}, ranks_{parts.ranks} {
  if (plan_.plain()) return;
  state_ = std::make_unique<compress::CudaState>(plan_, plan_.ranks() == 1 ? 0 : rank_,
                                                 parts.memory, parts.step, parts.stream);
  coder_ = std::make_unique<compress::CudaCoder>(plan_, parts.memory, parts.step, parts.errors,
                                                 parts.stream);
}

void CudaExchange::begin(TensorView gradients, StreamView stream, const float* inv_scale,
                         const float* out_scale) {
  const DType dtype = plan_.settings().dtype;
  THINWIRE_EXPECTS(
      gradients.dtype == dtype && gradients.numel >= plan_.source_extent() &&
          gradients.device == Device::cuda && (gradients.data != nullptr || gradients.numel == 0),
      InvalidArgument,
      fmt::format(
          "rank {}: allreduce of {} elements of {} on the GPU was planned, but the gradients "
          "given are {} elements of {} {}",
          rank_, plan_.source_extent(), to_string(dtype), gradients.numel,
          to_string(gradients.dtype),
          gradients.device == Device::cuda ? "on the GPU" : "on the host"));
  gradients_ = gradients;
  caller_ = stream;
  inv_scale_ = inv_scale;
  out_scale_ = out_scale;
  ++metrics_.calls;
  metrics_.plain_wire_bytes +=
      ring_bytes(static_cast<std::uint64_t>(plan_.elements()) * size_of(dtype), ranks());
}

std::unique_ptr<CudaExchange> make_cuda_exchange(const CudaParts& parts, compress::Plan plan,
                                                 Algorithm algorithm) {
  if (plan.plain()) return make_cuda_plain_exchange(parts, std::move(plan));
  switch (choose_algorithm(plan, algorithm)) {
    case Algorithm::sparse:
      return make_cuda_sparse_exchange(parts, std::move(plan));
    case Algorithm::summable:
      return make_cuda_summable_exchange(parts, std::move(plan));
    default:
      return make_cuda_two_phase_exchange(parts, std::move(plan));
  }
}

}  // namespace thinwire::comm
