#pragma once

#include <cstddef>

#include "nccl_functions.hpp"
#include "thinwire/core/tensor_view.hpp"

/// Exchanges that NCCL has as sends and receives; to be called inside a group.
namespace thinwire::comm {

/// Sends `in` to a peer and receives `out` from it; the peer may be this rank.
inline ncclResult_t enqueue_pair(const NcclFunctions& nccl, ncclComm_t communicator, int peer,
                                 ConstByteView in, ByteView out, cudaStream_t stream) {
  const auto sent = nccl.send(in.data, in.size, ncclUint8, peer, communicator, stream);
  if (sent != ncclSuccess) return sent;
  return nccl.recv(out.data, out.size, ncclUint8, peer, communicator, stream);
}

/// Part i of `in` to rank i, part i of `out` from rank i; parts are part_bytes each.
inline ncclResult_t enqueue_all_to_all(const NcclFunctions& nccl, ncclComm_t communicator, int size,
                                       const std::byte* in, std::byte* out, std::size_t part_bytes,
                                       cudaStream_t stream) {
  ncclResult_t result = ncclSuccess;
  for (int peer = 0; peer < size && result == ncclSuccess; ++peer) {
    const std::size_t offset = static_cast<std::size_t>(peer) * part_bytes;
    result = enqueue_pair(nccl, communicator, peer, {in + offset, part_bytes},
                          {out + offset, part_bytes}, stream);
  }
  return result;
}

}  // namespace thinwire::comm
