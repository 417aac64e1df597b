#pragma once

#include "collective_work.hpp"

/// The collectives as recipes over PointToPoint, the same for all transports. All exchange
/// directly: each pair of ranks sends each other what it owes, all pairs at once. N ranks.
///
/// Arguments are checked by the caller (PointToPointCommunicator).
namespace thinwire::comm {

/// Where one part of a buffer stands, in bytes.
struct Part {
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

/// N - 1 messages each way, parts as they are.
void add_all_to_all(Recipe& recipe, const PointToPoint& transport, ConstByteView in,
                    std::span<const Part> in_parts, ByteView out, std::span<const Part> out_parts);

/// `parts`: every rank's part of `out`; `in` is this rank's, which may stand in its place already.
void add_all_gather(Recipe& recipe, const PointToPoint& transport, ConstByteView in, ByteView out,
                    std::span<const Part> parts);

/// All-to-all of the parts of `in`, then a sum in rank order into `out` (this rank's part).
void add_reduce_scatter(Recipe& recipe, const PointToPoint& transport, ConstTensorView in,
                        std::span<const Part> parts, std::byte* out, ReduceOp op);

/// The transport's own where it has one; else reduce-scatter and all-gather: 2 (N - 1) / N of the
/// bytes each way, and the same bits on all ranks, because each sum is made by one rank.
void add_allreduce(Recipe& recipe, PointToPoint& transport, ConstTensorView in, TensorView out,
                   ReduceOp op);

/// Binomial tree: ceil(log2 N) steps; one step from the root to all where the transport exchanges
/// steps.
void add_broadcast(Recipe& recipe, const PointToPoint& transport, ByteView data, int root);

/// Dissemination: in round k each rank hears from the rank 2^k before it.
void add_barrier(Recipe& recipe, const PointToPoint& transport);

}  // namespace thinwire::comm
