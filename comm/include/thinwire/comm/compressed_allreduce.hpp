#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire::comm {

/// What calls have cost so far, on this rank. Bytes count slots and headers sent to other ranks.
struct CallMetrics {
  std::uint64_t calls = 0;
  std::uint64_t payload_bytes = 0;  ///< encoded bytes of this rank's gradients, own shard included
  std::uint64_t wire_bytes = 0;     ///< sent to others
  std::uint64_t plain_wire_bytes = 0;  ///< what a ring allreduce of the uncompressed bytes sends
  double encode_ms = 0;                ///< encode and the server step
  double exchange_ms = 0;              ///< waiting for the wire
  double decode_ms = 0;

  CallMetrics& operator+=(const CallMetrics& other);
};

/// Codec threads of a rank when nobody says: THINWIRE_THREADS, else this host's cores over its
/// ranks.
int default_codec_threads(const Communicator& communicator);

/// The two-phase allreduce of one bucket: encode N shards, all-to-all, the owner's step,
/// all-gather, decode. Wire per rank: 2 (N - 1) slots. A plain bucket takes the transport's own
/// allreduce. After a call all ranks hold the same bits.
///
/// The communicator, and through it the transport, must outlive the object. One thread at a time.
/// All ranks make their objects and their calls in the same order.
class CompressedAllreduce {
 public:
  /// Collective: compares the plans over the control plane. Allocates everything. Throws
  /// MismatchError on every rank when plans differ, OutOfMemory, InvalidArgument when the plan's
  /// ranks are not the communicator's.
  CompressedAllreduce(Communicator& communicator, compress::Plan plan,
                      std::shared_ptr<WorkerPool> pool, std::shared_ptr<MemoryResource> memory);
  ~CompressedAllreduce();

  const compress::Plan& plan() const;

  /// Replaces `gradients` by their mean over ranks, as coded. Blocks. The residuals are written but
  /// not committed: call end_step. Throws FormatError (a corrupt slot), TimeoutError, AbortedError;
  /// residuals stay uncommitted then and the communicator is aborted, so that no rank waits in
  /// vain.
  compress::Verdict run(TensorView gradients, const float* inv_scale = nullptr,
                        const float* out_scale = nullptr, Timeout timeout = {});

  /// Commits the residuals of the calls since the last end_step, or drops them (Commit rules).
  void end_step(bool commit);

  compress::State& state();
  const CallMetrics& metrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire::comm
