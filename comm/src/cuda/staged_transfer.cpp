#include "staged_transfer.hpp"

#include <cstring>

namespace thinwire::comm {

StagedTransfer all_to_all_transfer(const std::byte* in, std::byte* out, std::size_t part_bytes,
                                   std::size_t ranks) {
  return {in,
          ranks,
          out,
          ranks,
          part_bytes,
          [ranks](Communicator& host, std::byte* from, std::byte* to, std::size_t width) {
            return host.all_to_all({from, width * ranks}, {to, width * ranks});
          }};
}

StagedTransfer all_gather_transfer(const std::byte* in, std::byte* out, std::size_t part_bytes,
                                   std::size_t ranks) {
  return {in,
          1,
          out,
          ranks,
          part_bytes,
          [ranks](Communicator& host, std::byte* from, std::byte* to, std::size_t width) {
            return host.all_gather({from, width}, {to, width * ranks});
          }};
}

StagedTransfer allreduce_transfer(ConstTensorView in, TensorView out, ReduceOp op) {
  return {static_cast<const std::byte*>(in.data),
          1,
          static_cast<std::byte*>(out.data),
          1,
          in.bytes(),
          [op, dtype = in.dtype](Communicator& host, std::byte* from, std::byte* to,
                                 std::size_t width) {
            const std::int64_t numel = elements_in(width, dtype);
            return host.allreduce({from, numel, dtype}, {to, numel, dtype}, op);
          }};
}

StagedTransfer max_transfer(std::uint64_t* words, std::size_t count) {
  auto* bytes = reinterpret_cast<std::byte*>(words);
  return {bytes,
          1,
          bytes,
          1,
          count * sizeof(std::uint64_t),
          [](Communicator& host, std::byte* from, std::byte* to, std::size_t width) {
            std::memcpy(to, from, width);
            return host.allreduce_max(
                {reinterpret_cast<std::uint64_t*>(to), width / sizeof(std::uint64_t)});
          }};
}

StagedTransfer reduce_scatter_transfer(ConstTensorView in, TensorView out, ReduceOp op,
                                       std::size_t ranks) {
  return {static_cast<const std::byte*>(in.data),
          ranks,
          static_cast<std::byte*>(out.data),
          1,
          out.bytes(),
          [op, ranks, dtype = in.dtype](Communicator& host, std::byte* from, std::byte* to,
                                        std::size_t width) {
            const std::int64_t numel = elements_in(width, dtype);
            return host.reduce_scatter({from, numel * static_cast<std::int64_t>(ranks), dtype},
                                       {to, numel, dtype}, op);
          }};
}

}  // namespace thinwire::comm
