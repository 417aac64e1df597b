#pragma once

#include <memory>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// NCCL as a program without thinwire calls it: a blocking communicator of its own, and nothing
/// around each call. The peer of bench_allreduce. Calls enqueue on the stream; nobody watches
/// them.
class NcclBaseline {
 public:
  virtual ~NcclBaseline() = default;
  /// ncclAllReduce in place, average.
  virtual void allreduce(TensorView data, StreamView stream) = 0;
  /// Grouped ncclSend and ncclRecv of size() equal parts.
  virtual void all_to_all(ConstByteView in, ByteView out, StreamView stream) = 0;
  virtual void all_gather(ConstByteView in, ByteView out, StreamView stream) = 0;
};

/// Collective over the ranks of `bootstrap`, on the calling thread's current GPU.
std::unique_ptr<NcclBaseline> make_nccl_baseline(Communicator& bootstrap);

}  // namespace thinwire::comm
