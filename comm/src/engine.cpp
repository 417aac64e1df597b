#include "thinwire/comm/engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "exchange/algorithm.hpp"
#include "exchange/bucket_exchange.hpp"
#include "exchange/exchange_loop.hpp"
#include "exchange/trace.hpp"
#include "failure.hpp"
#include "kept_residuals.hpp"
#include "residual_exchange.hpp"
#include "thinwire/core/config.hpp"

namespace thinwire::comm {

struct Engine::Impl {
  /// Where a bucket is within the step.
  enum class Progress { idle, submitted, reduced };

  struct Submission {
    std::size_t bucket;
    BucketExchange* exchange;
    TensorView gradients;
    compress::CallState call;
  };

  Impl(Communicator& communicator_, BucketLayout layout_, const EngineOptions& options_,
       std::vector<compress::Plan> plans)
      : communicator{communicator_},
        layout{std::move(layout_)},
        options{options_},
        timeout{options.timeout == Timeout{} ? config().timeout : options.timeout},
        lanes{communicator},
        pool{std::make_shared<WorkerPool>(
            options.threads > 0 ? options.threads : default_codec_threads(communicator))},
        memory{options.memory ? options.memory : default_memory()},
        progress(layout.buckets.size(), Progress::idle),
        submitted(layout.buckets.size()),
        callbacks(layout.buckets.size()) {
    for (compress::Plan& plan : plans) {
      buckets.push_back(make_exchange({lanes, pool, memory}, std::move(plan), options.algorithm));
    }
    thread = std::thread{[this] { run(); }};
  }

  ~Impl() {
    {
      const std::lock_guard lock{mutex};
      stopping = true;
    }
    wake.notify_one();
    thread.join();
  }

  /// The engine's thread: sleeps while nothing is submitted, else drives the loop.
  void run() noexcept {
    ExchangeLoop loop{timeout, &trace};
    try {
      while (take_submissions(loop)) {
        std::size_t finished = 0;
        if (!loop.idle() && loop.step(finished)) {
          finish(finished);
        }
      }
    } catch (...) {
      const auto error = std::current_exception();
      abort_all_of(error);
      loop.clear();
      while (!end_with(error)) {
      }
    }
  }

  /// Records the failure once all callbacks have been called; false: it has called some, and more
  /// may have been submitted meanwhile.
  bool end_with(const std::exception_ptr& error) {
    std::vector<std::function<void()>> open;
    {
      const std::lock_guard lock{mutex};
      for (auto& callback : callbacks) {
        if (callback) open.push_back(std::exchange(callback, {}));
      }
      if (open.empty()) {
        take_back_buckets();
        failure = error;
        done.notify_all();
        return true;
      }
    }
    for (const auto& callback : open) callback();
    return false;
  }

  /// Nobody waits in vain for a bucket, and none returns from a wait while its callback still runs.
  void finish(std::size_t bucket) {
    call_back(bucket);
    const std::lock_guard lock{mutex};
    progress[bucket] = Progress::reduced;
    trace.add(bucket, TraceSpan::whole, "bucket", submitted[bucket]);
    done.notify_all();
  }

  void call_back(std::size_t bucket) {
    std::function<void()> callback;
    {
      const std::lock_guard lock{mutex};
      callback = std::exchange(callbacks[bucket], {});
    }
    if (callback) callback();
  }

  /// Moves what was submitted into the loop; blocks while there is nothing at all to do. False: the
  /// engine is being destroyed and everything is done.
  bool take_submissions(ExchangeLoop& loop) {
    std::deque<Submission> taken;
    {
      std::unique_lock lock{mutex};
      if (loop.idle()) wake.wait(lock, [&] { return stopping || !queue.empty(); });
      if (loop.idle() && queue.empty()) return false;
      taken.swap(queue);
    }
    for (const Submission& submission : taken) {
      submission.exchange->begin(submission.gradients, submission.call);
      loop.push(*submission.exchange, submission.bucket);
    }
    return true;
  }

  void abort_all_of(std::exception_ptr error) noexcept {
    abort_all(error, {&communicator, lanes.reduce.get(), lanes.gather.get()});
  }

  void throw_failure() const {
    if (failure) std::rethrow_exception(failure);
  }

  /// Ends the step of every bucket that took part in it.
  void end_buckets(bool commit) {
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      if (progress[i] == Progress::idle) continue;
      buckets[i]->end_step(commit);
      progress[i] = Progress::idle;
    }
  }

  /// The step failed: whatever it encoded goes back into the residuals.
  void take_back_buckets() {
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      if (progress[i] == Progress::idle) continue;
      buckets[i]->take_back();
      progress[i] = Progress::idle;
    }
  }

  /// The buckets that have not ended.
  template <typename Visitor>
  void for_each_bucket(Visitor&& visit) const {
    for (const auto& bucket : buckets) {
      if (bucket) visit(*bucket);
    }
  }

  void expect_live(std::size_t bucket) const {
    THINWIRE_EXPECTS(bucket < buckets.size() && buckets[bucket], InvalidArgument,
                     fmt::format("rank {}: bucket {} of {}{}", communicator.rank(), bucket,
                                 buckets.size(), bucket < buckets.size() ? " has ended" : ""));
  }

  /// Ends the buckets in which a parameter of `parameters` stands; their residuals are kept. All of
  /// them or, where one is in use, none.
  void end_buckets_with(const std::set<std::string>& parameters) {
    std::vector<std::size_t> ending;
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      if (!buckets[i]) continue;
      const std::string* const found = find_parameter(buckets[i]->plan(), parameters);
      if (found == nullptr) continue;
      THINWIRE_EXPECTS(progress[i] == Progress::idle, InvalidArgument,
                       fmt::format("rank {}: parameter '{}' stands in bucket {}, whose step has "
                                   "not ended; call end_step before add_bucket",
                                   communicator.rank(), *found, i));
      ending.push_back(i);
    }
    for (const std::size_t i : ending) {
      kept.worker.add(buckets[i]->state().export_worker());
      kept.server.add(buckets[i]->state().export_server());
      ended_metrics += buckets[i]->metrics();
      buckets[i].reset();
    }
  }

  /// Collective: the exchange of a plan that all ranks have agreed in, with what is remembered of
  /// its parameters. If that fails, the residuals stay on the shelf.
  std::unique_ptr<BucketExchange> make_remembering(compress::Plan agreed) {
    auto exchange = make_exchange({lanes, pool, memory}, std::move(agreed), options.algorithm);
    const compress::Plan* const plan = &exchange->plan();
    const auto remembered = remembered_parameters(*plan);
    if (remembered.empty()) return exchange;
    exchange->state().import_worker(kept.worker.of(remembered));
    exchange->state().import_server(
        move_to_owners(communicator, kept.server.of(remembered), {&plan, 1}, timeout));
    kept.worker.erase(remembered);
    kept.server.erase(remembered);
    return exchange;
  }

  Communicator& communicator;
  BucketLayout layout;
  EngineOptions options;
  Timeout timeout;
  Lanes lanes;
  std::shared_ptr<WorkerPool> pool;
  std::shared_ptr<MemoryResource> memory;
  std::vector<std::unique_ptr<BucketExchange>> buckets;  // null: it has ended
  KeptResiduals kept;                                    // of parameters in no bucket
  CallMetrics ended_metrics;
  std::uint64_t sequence = 0;

  std::mutex mutex;
  std::condition_variable wake;  // of the engine's thread
  std::condition_variable done;  // of the caller
  std::deque<Submission> queue;
  std::vector<Progress> progress;
  std::vector<std::chrono::steady_clock::time_point> submitted;  // by bucket: when, last
  std::vector<std::function<void()>> callbacks;                  // by bucket
  std::exception_ptr failure;
  bool stopping = false;
  Trace trace;

  std::thread thread;  // last: it uses everything above
};

Engine::Engine(Communicator& communicator, BucketLayout layout, EngineOptions options) {
  std::vector<compress::Plan> plans;
  try {
    plans = make_plans(
        layout,
        {.commit = options.commit, .non_finite = options.non_finite, .chunks = options.chunks},
        communicator.size());
  } catch (const std::exception& error) {
    communicator.abort(error.what());  // the others wait for this rank's plans
    throw;
  }
  const Timeout timeout = options.timeout == Timeout{} ? config().timeout : options.timeout;
  require_equal_plans(communicator, plans, options.algorithm, timeout);
  impl_ = std::make_unique<Impl>(communicator, std::move(layout), options, std::move(plans));
}

Engine::~Engine() = default;

const BucketLayout& Engine::layout() const { return impl_->layout; }

std::size_t Engine::add_bucket(Bucket bucket) {
  Impl& impl = *impl_;
  BucketLayout one;
  one.buckets.push_back(std::move(bucket));
  std::vector<compress::Plan> plans;
  try {
    plans = make_plans(one,
                       {.commit = impl.options.commit,
                        .non_finite = impl.options.non_finite,
                        .chunks = impl.options.chunks},
                       impl.communicator.size());
  } catch (const std::exception& error) {
    abort(error.what());  // the others wait for this rank's plan
    throw;
  }
  require_equal_plans(impl.communicator, plans, impl.options.algorithm, impl.timeout);

  {
    const std::lock_guard lock{impl.mutex};
    impl.throw_failure();
    impl.end_buckets_with(parameters_of(plans[0]));
  }
  std::unique_ptr<BucketExchange> exchange;
  try {
    exchange = impl.make_remembering(std::move(plans[0]));
  } catch (...) {  // the others wait for this rank
    impl.abort_all_of(std::current_exception());
    throw;
  }
  const std::lock_guard lock{impl.mutex};
  impl.buckets.push_back(std::move(exchange));
  impl.layout.buckets.push_back(std::move(one.buckets[0]));
  impl.progress.push_back(Impl::Progress::idle);
  impl.submitted.emplace_back();
  impl.callbacks.emplace_back();
  return impl.buckets.size() - 1;
}

const compress::Plan& Engine::plan(std::size_t bucket) const {
  impl_->expect_live(bucket);
  return impl_->buckets[bucket]->plan();
}

void Engine::restore(std::vector<compress::Residual> worker,
                     std::vector<compress::Residual> server) {
  std::set<std::string> parameters;
  impl_->for_each_bucket(
      [&](const BucketExchange& bucket) { parameters.merge(parameters_of(bucket.plan())); });
  const std::lock_guard lock{impl_->mutex};
  impl_->end_buckets_with(parameters);
  impl_->kept = {};
  impl_->kept.worker.add(std::move(worker));
  impl_->kept.server.add(std::move(server));
}

void Engine::submit(std::size_t bucket, TensorView gradients, const float* inv_scale,
                    const float* out_scale, std::function<void()> done) {
  Impl& impl = *impl_;
  impl.expect_live(bucket);
  const Bucket& planned = impl.layout.buckets[bucket];
  THINWIRE_EXPECTS(
      gradients.numel == planned.elements && gradients.dtype == planned.dtype, InvalidArgument,
      fmt::format("rank {}: bucket {} holds {} elements of {}, but {} of {} were submitted",
                  impl.communicator.rank(), bucket, planned.elements, to_string(planned.dtype),
                  gradients.numel, to_string(gradients.dtype)));
  THINWIRE_EXPECTS(
      (gradients.data || gradients.numel == 0) && gradients.device == impl.communicator.device(),
      InvalidArgument,
      fmt::format(
          "rank {}: bucket {} was submitted {}", impl.communicator.rank(), bucket,
          gradients.data ? "on another device than the communicator's" : "at a null address"));
  {
    const std::lock_guard lock{impl.mutex};
    impl.throw_failure();
    THINWIRE_EXPECTS(
        impl.progress[bucket] == Impl::Progress::idle, InvalidArgument,
        fmt::format("rank {}: bucket {} was submitted twice in one step; call end_step "
                    "between steps",
                    impl.communicator.rank(), bucket));
    impl.progress[bucket] = Impl::Progress::submitted;
    impl.submitted[bucket] = std::chrono::steady_clock::now();
    impl.callbacks[bucket] = std::move(done);
    impl.queue.push_back(
        {bucket, impl.buckets[bucket].get(), gradients, {++impl.sequence, inv_scale, out_scale}});
  }
  impl.wake.notify_one();
}

void Engine::wait(std::size_t bucket) {
  impl_->expect_live(bucket);
  std::unique_lock lock{impl_->mutex};
  impl_->done.wait(
      lock, [&] { return impl_->failure || impl_->progress[bucket] != Impl::Progress::submitted; });
  impl_->throw_failure();
}

StepReport Engine::end_step(bool found_inf) {
  Impl& impl = *impl_;
  std::unique_lock lock{impl.mutex};
  impl.done.wait(lock, [&] {
    return impl.failure || std::none_of(impl.progress.begin(), impl.progress.end(), [](auto state) {
             return state == Impl::Progress::submitted;
           });
  });
  impl.throw_failure();
  compress::Verdict verdict;
  for (std::size_t i = 0; i < impl.buckets.size(); ++i) {
    if (impl.progress[i] == Impl::Progress::reduced) {
      verdict.flags |= impl.buckets[i]->verdict().flags;
    }
  }
  StepReport report;
  report.finite = verdict.finite();
  // What was written in place cannot be taken back, so such a step always commits.
  const bool skipped = found_inf || !report.finite;
  report.committed = impl.options.commit == compress::Commit::in_place || !skipped;
  impl.end_buckets(report.committed);
  if (!report.finite && impl.options.non_finite == compress::NonFinite::raise) {
    throw NonFiniteError{fmt::format(
        "rank {}: the gradients of this step held NaN or Inf on some rank; the step was not "
        "committed, so residuals are those of before it",
        impl.communicator.rank())};
  }
  return report;
}

void Engine::abort(std::string_view reason, int culprit) noexcept {
  impl_->lanes.abort(reason, culprit);
  impl_->communicator.abort(reason, culprit);
}

namespace {

void append(std::vector<compress::Residual>& all, std::vector<compress::Residual> more) {
  std::move(more.begin(), more.end(), std::back_inserter(all));
}

}  // namespace

std::vector<compress::Residual> Engine::export_worker() const {
  std::vector<compress::Residual> all;
  impl_->for_each_bucket([&](const auto& bucket) { append(all, bucket.state().export_worker()); });
  append(all, impl_->kept.worker.all());
  return all;
}

std::vector<compress::Residual> Engine::export_server() const {
  std::vector<compress::Residual> all;
  impl_->for_each_bucket([&](const auto& bucket) { append(all, bucket.state().export_server()); });
  append(all, impl_->kept.server.all());
  return all;
}

void Engine::import_worker(std::span<const compress::Residual> residuals) {
  impl_->for_each_bucket([&](auto& bucket) { bucket.state().import_worker(residuals); });
}

void Engine::import_server(std::span<const compress::Residual> residuals) {
  impl_->for_each_bucket([&](auto& bucket) { bucket.state().import_server(residuals); });
}

void Engine::take_over(const Engine& previous) {
  std::vector<const compress::Plan*> plans;
  impl_->for_each_bucket([&](const auto& bucket) { plans.push_back(&bucket.plan()); });
  import_worker(previous.export_worker());
  import_server(
      move_to_owners(impl_->communicator, previous.export_server(), plans, impl_->timeout));
}

CallMetrics Engine::metrics() const {
  CallMetrics sum = impl_->ended_metrics;
  impl_->for_each_bucket([&](const auto& bucket) { sum += bucket.metrics(); });
  return sum;
}

CallMetrics Engine::metrics(std::size_t bucket) const {
  impl_->expect_live(bucket);
  return impl_->buckets[bucket]->metrics();
}

void Engine::start_trace() { impl_->trace.start(); }
std::vector<TraceSpan> Engine::stop_trace() { return impl_->trace.stop(); }

}  // namespace thinwire::comm
