#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "lanes.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::comm {

/// What an exchange is made of.
struct ExchangeParts {
  Lanes& lanes;
  std::shared_ptr<WorkerPool> pool;
  std::shared_ptr<MemoryResource> memory;
};

/// One bucket's allreduce in the stages of a chunk:
///   encode -> (first exchange) -> combine -> (second exchange) -> decode.
/// An algorithm is a subclass; it may have no second exchange. Allocates everything when made.
class BucketExchange {
 public:
  virtual ~BucketExchange() = default;
  BucketExchange(const BucketExchange&) = delete;
  BucketExchange& operator=(const BucketExchange&) = delete;

  const compress::Plan& plan() const { return plan_; }
  compress::State& state() { return state_; }
  const compress::State& state() const { return state_; }
  CallMetrics& metrics() { return metrics_; }
  const CallMetrics& metrics() const { return metrics_; }
  const compress::Verdict& verdict() const { return verdict_; }

  /// Starts a call. Throws InvalidArgument for gradients that do not fit the plan or for a
  /// double-buffered step that was not ended.
  void begin(TensorView gradients, const compress::CallState& call);

  /// The stages of one chunk, timed. encode and combine return the exchange that they posted, or
  /// null when there is none to wait for.
  WorkHandle encode(int chunk);
  WorkHandle combine(int chunk);
  void decode(int chunk);

  /// Residuals of the calls since the last end_step count (commit), or, double-buffered, never
  /// were.
  void end_step(bool commit);

  /// After a failed call: the residuals become what they were (double-buffered), or take up what
  /// was encoded in place, so that nothing is lost. Never throws.
  void take_back() noexcept;

 protected:
  /// `shard`: what this rank owns of `plan`, which may have fewer shards than there are ranks.
  BucketExchange(const ExchangeParts& parts, compress::Plan plan, int shard);

  /// Codes the gradients of a chunk; plain exchanges have nothing to do.
  virtual void do_encode(int chunk) = 0;
  virtual WorkHandle post_encoded(int chunk) = 0;
  virtual WorkHandle do_combine(int chunk) = 0;
  virtual void do_decode(int chunk) = 0;
  /// The slots that this rank encoded for a chunk; empty where nothing is encoded.
  virtual std::span<const std::byte> encoded(int chunk) const = 0;

  int rank() const { return lanes_.reduce->rank(); }
  std::size_t ranks() const { return static_cast<std::size_t>(lanes_.reduce->size()); }

  Lanes& lanes_;
  compress::Plan plan_;
  compress::State state_;
  TensorView gradients_;
  compress::CallState call_;
  compress::Verdict verdict_;
  CallMetrics metrics_;
  std::vector<int> encoded_chunks_;  ///< of the current call
};

/// The exchange of a plan: the transport's own allreduce for a plain plan, else `algorithm`.
/// Throws InvalidArgument when the algorithm cannot carry the plan's codecs.
std::unique_ptr<BucketExchange> make_exchange(const ExchangeParts& parts, compress::Plan plan,
                                              Algorithm algorithm);

/// The algorithms. make_exchange is how to get one.
std::unique_ptr<BucketExchange> make_plain_exchange(const ExchangeParts& parts,
                                                    compress::Plan plan);
std::unique_ptr<BucketExchange> make_two_phase_exchange(const ExchangeParts& parts,
                                                        compress::Plan plan);
std::unique_ptr<BucketExchange> make_sparse_exchange(const ExchangeParts& parts,
                                                     compress::Plan plan);
std::unique_ptr<BucketExchange> make_summable_exchange(const ExchangeParts& parts,
                                                       compress::Plan plan);

/// Bytes that a ring allreduce of `bytes` sends from one rank.
inline std::uint64_t ring_bytes(std::uint64_t bytes, std::size_t ranks) {
  return 2 * (ranks - 1) * bytes / ranks;
}

}  // namespace thinwire::comm
