#pragma once

#include <memory>
#include <string>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/tcp_control_plane.hpp"

namespace thinwire::comm {

struct NcclOptions {
  /// What nccl_unique_id() gave on one rank, carried to all by the caller. Empty: rank 0 makes one
  /// and the control plane carries it.
  std::string unique_id{};
  int max_ctas = 0;   ///< upper bound of the GPU's processors that NCCL takes; 0: NCCL's choice
  Timeout timeout{};  ///< of the start and of every operation; 0: THINWIRE_TIMEOUT
};

/// Collective: a communicator over NCCL on the calling thread's current GPU, with the control plane
/// of `bootstrap` (MPI, or threads), which must outlive it; or with a TCP control plane of its own.
///
/// Operations are NCCL's own, enqueued on the caller's stream, without waiting for the GPU; they
/// can be captured in a CUDA graph (their Works are complete at once then). A thread of its own
/// watches for NCCL's asynchronous errors, for the control plane's news and for operations that run
/// out of time, and ends the communicator on every rank then: kernels that wait for a dead peer end
/// too, so that no stream stays stuck. `words` of allreduce_max are device memory.
///
/// NCCL is the copy already in the process (torch's), else THINWIRE_NCCL, else libnccl.so.2; 2.18
/// or later. All connections are made and used once before this returns.
///
/// Throws TransportError (NCCL missing, too old, or failing), TimeoutError naming ranks that did
/// not come, MismatchError when ranks have different versions of NCCL.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap,
                                                     const NcclOptions& options = {});
std::unique_ptr<Communicator> make_nccl_communicator(const TcpRendezvous& rendezvous,
                                                     const NcclOptions& options = {});

/// A new unique id (128 bytes) for NcclOptions. Throws TransportError.
std::string nccl_unique_id();

/// True if this build has NCCL, a libnccl that is new enough can be loaded and there is a GPU; the
/// reason in `why` if not.
bool nccl_available(std::string* why = nullptr);

}  // namespace thinwire::comm
