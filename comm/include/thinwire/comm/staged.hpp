#pragma once

#include <cstddef>
#include <memory>

#include "thinwire/comm/communicator.hpp"

/// GPU buffers over a network that knows host memory alone. Declared always, defined only in builds
/// with NCCL.
namespace thinwire::comm {

struct StagedOptions {
  /// Pinned host memory for one chunk of an exchange, in and out; three of each are taken. Equal on
  /// all ranks.
  std::size_t chunk_bytes = std::size_t{1} << 20;
  Timeout timeout{};  ///< of every operation; 0: THINWIRE_TIMEOUT
};

/// Collective: a communicator for device memory over `host` (MPI, or threads), which must outlive
/// it; on the calling thread's current GPU. What the engines for GPUs take where there is no NCCL.
///
/// An exchange goes through pinned chunks: while one is on the network, the next come from the GPU.
/// Operations are enqueued on the caller's stream, as NCCL's are, and carried out by a thread of
/// the communicator's own; the stream waits on a word in memory. They cannot be captured in a CUDA
/// graph (InvalidArgument). `words` of allreduce_max are device memory. Each rank needs a GPU of
/// its own. A stream that waits can hold up others in the same hardware queue: set
/// CUDA_DEVICE_MAX_CONNECTIONS=32 where many streams are in use. Where ranks are threads of one
/// process, set CUDA_MODULE_LOADING=EAGER: a kernel that is loaded at its first launch makes CUDA
/// wait for one rank's GPU under a lock that another rank needs to get on.
///
/// When an operation fails, every rank's communicator ends, and waiting streams go on.
std::unique_ptr<Communicator> make_staged_communicator(Communicator& host,
                                                       const StagedOptions& options = {});

}  // namespace thinwire::comm
