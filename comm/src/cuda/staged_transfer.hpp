#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// One exchange of device memory: `rows_in` parts that stand one after the other leave, `rows_out`
/// parts come, of part_bytes each. A chunk is the same range of every part.
struct StagedTransfer {
  /// Starts the exchange of a chunk on the host; `width` bytes of each part, packed.
  using Post =
      std::function<WorkHandle(Communicator&, std::byte* in, std::byte* out, std::size_t width)>;
  const std::byte* in = nullptr;
  std::size_t rows_in = 0;
  std::byte* out = nullptr;
  std::size_t rows_out = 0;
  std::size_t part_bytes = 0;
  Post post;
};

/// Elements in so many bytes.
inline std::int64_t elements_in(std::size_t bytes, DType dtype) {
  return static_cast<std::int64_t>(bytes / size_of(dtype));
}

StagedTransfer all_to_all_transfer(const std::byte* in, std::byte* out, std::size_t part_bytes,
                                   std::size_t ranks);
StagedTransfer all_gather_transfer(const std::byte* in, std::byte* out, std::size_t part_bytes,
                                   std::size_t ranks);
StagedTransfer allreduce_transfer(ConstTensorView in, TensorView out, ReduceOp op);
StagedTransfer reduce_scatter_transfer(ConstTensorView in, TensorView out, ReduceOp op,
                                       std::size_t ranks);
StagedTransfer max_transfer(std::uint64_t* words, std::size_t count);

}  // namespace thinwire::comm
