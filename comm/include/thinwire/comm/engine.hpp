#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "thinwire/comm/buckets.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/comm/trace.hpp"

namespace thinwire::comm {

struct EngineOptions {
  compress::Commit commit = compress::Commit::in_place;
  /// Of buckets that are coded; plain ones are the library's own allreduce, which does not look.
  compress::NonFinite non_finite = compress::NonFinite::propagate;
  int chunks = 1;
  Algorithm algorithm = Algorithm::automatic;
  int threads = 0;    ///< codec threads; 0: THINWIRE_THREADS, else cores over local ranks
  Timeout timeout{};  ///< of every wait but those that make the engine; 0: THINWIRE_TIMEOUT
  std::shared_ptr<MemoryResource> memory{};  ///< null: default_memory()
};

/// What a step came to, the same on every rank.
struct StepReport {
  bool committed = true;  ///< false: the step was skipped and double-buffered residuals kept
  bool finite = true;
};

/// Takes buckets as backward makes them ready and reduces them on a thread of its own, in the order
/// of submission, which must be the same on all ranks.
///
///   Engine engine{communicator, layout, options};
///   for each step:
///     for each bucket, as soon as its gradients are complete: engine.submit(bucket, gradients);
///     engine.end_step();   // waits; gradients now hold the mean
///
/// One thread submits. An error of the engine's thread is thrown by the next wait, submit or
/// end_step; the communicator is aborted then, so that no rank hangs. Nothing that this rank
/// remembered is lost: residuals are again what they were before the step
/// (Commit::double_buffered), or hold the step's gradients as well as far as they were encoded
/// (in_place: g + e, so a caller that repeats the step elsewhere drops its gradients first).
class Engine {
 public:
  /// Collective. Makes all plans and compares them over the control plane; allocates everything
  /// that steps need. Throws MismatchError on every rank when layouts or options differ.
  Engine(Communicator& communicator, BucketLayout layout, EngineOptions options = {});
  /// Waits for what is in flight; never throws.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const BucketLayout& layout() const;

  /// Collective: one more bucket, for callers that learn their buckets as gradients come (PyTorch
  /// rebuilds them after the first step). Returns its index; it has no place in
  /// layout().placements.
  ///
  /// Buckets that hold one of its parameters end: their index is not used again. Residuals of its
  /// elements move into it, the server's to their new owners by one exchange; those that no bucket
  /// holds any more are kept until a bucket does, and export_* gives them too. Its spans must hold
  /// whole parameters.
  ///
  /// Throws MismatchError on every rank when ranks differ in the bucket, InvalidArgument when a
  /// bucket that has to end is in use by a step that has not ended.
  std::size_t add_bucket(Bucket bucket);

  /// The plan of a bucket. Throws InvalidArgument if there is none or it has ended.
  const compress::Plan& plan(std::size_t bucket) const;

  /// Between steps, the same on all ranks: ends all buckets and keeps these residuals, instead of
  /// what they remembered, for those that add_bucket brings from now on.
  void restore(std::vector<compress::Residual> worker, std::vector<compress::Residual> server);

  /// Hands over a bucket: `gradients` has the bucket's elements and dtype and must not be touched
  /// until end_step or wait. Scales as in CallState, read when the bucket is coded. Does not block.
  /// `done` is called once on the engine's thread when the mean is in place, or when the engine has
  /// failed (wait says which), before wait or end_step return; it must not call the engine.
  /// Throws InvalidArgument (wrong size or dtype; submitted twice in a step).
  void submit(std::size_t bucket, TensorView gradients, const float* inv_scale = nullptr,
              const float* out_scale = nullptr, std::function<void()> done = {});

  /// Blocks until the bucket's mean is in place. Throws InvalidArgument for a bucket that is none,
  /// and the engine's error.
  void wait(std::size_t bucket);

  /// Blocks until every submitted bucket is done, then commits the residuals as a whole, or, when
  /// the step was not finite or `found_inf` is set on any rank's behalf (it must be equal on all
  /// ranks), drops them (Commit rules). Throws NonFiniteError under the policy raise.
  StepReport end_step(bool found_inf = false);

  /// Ends the engine and its communicator on every rank, as Communicator::abort does.
  void abort(std::string_view reason, int culprit = -1) noexcept;

  /// Residuals of all buckets by parameter (between steps), for checkpoints and for other layouts.
  std::vector<compress::Residual> export_worker() const;
  std::vector<compress::Residual> export_server() const;
  void import_worker(std::span<const compress::Residual> residuals);
  void import_server(std::span<const compress::Residual> residuals);

  /// Collective, between steps: takes the residuals of an engine with another layout of the same
  /// parameters (buckets rebuilt, another codec or chunking). Worker residuals stay on their rank;
  /// server residuals move to the blocks' new owners by one exchange.
  void take_over(const Engine& previous);

  /// Sums over all buckets since the engine was made. Between steps, as the next one.
  CallMetrics metrics() const;

  /// Of one bucket since it was added. exchange_ms is what the engine waited with this bucket at
  /// the head; how long each exchange was under way says a trace. Throws InvalidArgument if there
  /// is no such bucket or it has ended.
  CallMetrics metrics(std::size_t bucket) const;

  /// Notes from now on what every bucket and chunk does when, for a few steps at a time: a span
  /// takes 48 bytes. stop_trace gives what has been noted since, in the order in which it ended.
  void start_trace();
  std::vector<TraceSpan> stop_trace();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire::comm
