#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "thinwire/compress/plan.hpp"
#include "thinwire/compress/state.hpp"
#include "thinwire/core/tensor_view.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire::compress {

/// What belongs to one call of the verbs, equal on all ranks.
struct CallState {
  std::uint64_t sequence = 0;        ///< number of the call; a slot of another call is refused
  const float* inv_scale = nullptr;  ///< gradients are multiplied by it on the way in; null: 1
  const float* out_scale = nullptr;  ///< results are multiplied by it on the way out; null: 1
};

/// Flags of all ranks together (SlotFlag bits), the same on every rank.
struct Verdict {
  std::uint32_t flags = 0;
  bool finite() const;
};

/// The verbs of a plan on one device. One call of encode, reduce_encode and decode per chunk, in
/// this order, is one compressed allreduce; what travels between them is the caller's.
///
/// Slots are laid out as Plan says: a chunk's N slots, slot_bytes(chunk, phase) each. Gradient
/// tensors are indexed by Span::source_offset and may be unaligned; slot buffers are 16-byte
/// aligned. All verbs block (host) and allocate nothing. Chunks of one call may run concurrently
/// from several threads, as may coders of different plans; calls of one plan may not.
class Coder {
 public:
  virtual ~Coder() = default;

  /// Encodes all N shards of a chunk: reads gradients and the committed worker residual, writes the
  /// N slots (headers and padding included) and the next worker residual.
  /// Source: error feedback (Seide et al. 2014; Karimireddy et al. 2019).
  virtual void encode(int chunk, ConstTensorView gradients, State& state, const CallState& call,
                      std::span<std::byte> slots) = 0;

  /// The owner's step: checks the N slots that came for state.shard(), adds them in rank order,
  /// averages, adds the server residual, and encodes the result into one slot.
  /// Throws FormatError naming the peer; nothing is written then.
  virtual void reduce_encode(int chunk, std::span<const std::byte> slots, State& state,
                             const CallState& call, std::span<std::byte> slot_out) = 0;

  /// Checks N slots of phase gather (slot j from the owner of shard j) and writes every span.
  /// Throws FormatError naming the peer; `gradients` is unspecified then, never out of bounds.
  virtual Verdict decode(int chunk, std::span<const std::byte> slots, const CallState& call,
                         TensorView gradients) = 0;

  /// As reduce_encode up to the average, which is written times out_scale to `out`: element i of
  /// `out` is source element out_origin + i. For reduce-scatter.
  virtual Verdict reduce(int chunk, std::span<const std::byte> slots, int shard,
                         const CallState& call, TensorView out, std::int64_t out_origin) = 0;
};

/// The specification in code: plain scalar loops, one element at a time. Slow; the oracle of every
/// test. `plan` must outlive the coder.
std::unique_ptr<Coder> make_reference_coder(const Plan& plan);

/// The fast host codec: the best SIMD target of this machine (or THINWIRE_SIMD) and the threads of
/// `pool`. Same bits as the reference. `plan` must outlive the coder; the pool is shared.
std::unique_ptr<Coder> make_host_coder(const Plan& plan, std::shared_ptr<WorkerPool> pool);

/// Names of the SIMD targets of this machine, best first ("avx3", "avx2", ..., "scalar").
std::vector<std::string> simd_targets();

/// Makes all host coders of the process use one target; empty: the best. For tests and benchmarks.
/// Throws InvalidArgument naming the targets there are.
void force_simd_target(const std::string& name);

}  // namespace thinwire::compress
