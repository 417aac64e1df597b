#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>

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

/// How an encoded bucket is reduced. A bucket wholly `none` always takes the transport's allreduce.
enum class Algorithm : std::uint8_t {
  automatic = 0,  ///< sparse where it sends no more bytes than two_phase, else two_phase
  two_phase = 1,  ///< every codec: all-to-all, the owner's step, all-gather; 2 (N - 1) slots
  sparse = 2,     ///< topk alone: one all-gather of everybody's selection; N (N - 1) slots
  summable = 3    ///< bf16 alone: the transport adds the payload up, in bf16
};
std::string_view to_string(Algorithm algorithm);
/// Throws InvalidArgument naming the names there are.
Algorithm parse_algorithm(std::string_view text);

/// Codec threads of a rank when nobody says: THINWIRE_THREADS, else this host's cores over its
/// ranks.
int default_codec_threads(const Communicator& communicator);

/// The communicators that an operation's exchanges run on, split off its own: its lanes. Each costs
/// what a split costs, such as sockets.
struct Lanes;

/// What operations on one communicator of which no two run at a time may share; null at first. The
/// first of them makes the lanes, once ranks have agreed on its plan. Must go before the
/// communicator does.
using SharedLanes = std::shared_ptr<Lanes>;

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
  /// ranks are not the communicator's. `lanes`: null for lanes of its own; used here alone.
  CompressedAllreduce(Communicator& communicator, compress::Plan plan,
                      std::shared_ptr<WorkerPool> pool, std::shared_ptr<MemoryResource> memory,
                      Algorithm algorithm = Algorithm::automatic, SharedLanes* lanes = nullptr);
  ~CompressedAllreduce();

  const compress::Plan& plan() const;

  /// Replaces `gradients` by their mean over ranks, as coded. Blocks. The residuals are written but
  /// not committed: call end_step. Throws FormatError (a corrupt slot), TimeoutError, AbortedError;
  /// the communicator is aborted then, so that no rank waits in vain, and residuals are what they
  /// were (double-buffered) or hold this call's gradients too, as far as encoded (in place: g + e).
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
