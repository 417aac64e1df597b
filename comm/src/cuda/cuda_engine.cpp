#include "thinwire/comm/cuda_engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <utility>

#include "../exchange/algorithm.hpp"
#include "../failure.hpp"
#include "../kept_residuals.hpp"
#include "../residual_exchange.hpp"
#include "device_failure.hpp"
#include "device_messages.hpp"
#include "device_wire.hpp"
#include "step_queue.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

std::vector<compress::Plan> compared_plans(Communicator& communicator, const BucketLayout& layout,
                                           const CudaEngineOptions& options, Timeout timeout) {
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
  require_equal_plans(communicator, plans, options.algorithm, timeout);
  return plans;
}

void append(std::vector<compress::Residual>& all, std::vector<compress::Residual> more) {
  std::move(more.begin(), more.end(), std::back_inserter(all));
}

}  // namespace

struct CudaEngine::Impl {
  Impl(Communicator& communicator_, BucketLayout layout_, const CudaEngineOptions& options_,
       std::vector<compress::Plan> plans, Timeout timeout_)
      : communicator{communicator_},
        wire{wire_of(communicator, "CudaEngine")},
        layout{std::move(layout_)},
        options{options_},
        timeout{timeout_},
        queue{wire, options.coalesce_bytes},
        memory{options.memory ? options.memory : std::make_shared<DeviceMemory>(queue.encoder)},
        step{memory, queue.encoder, std::max(most_buckets, static_cast<int>(plans.size()))},
        errors{memory} {
    for (compress::Plan& plan : plans) add(std::move(plan));
    queue.encoder.synchronize();  // memory and tables are ready on every stream
  }

  CudaExchange& add(compress::Plan plan) {
    const CudaParts parts{
        communicator.rank(), communicator.size(), memory, exchange_memory, step, errors,
        queue.encoder};
    exchanges.push_back(make_cuda_exchange(parts, std::move(plan), options.algorithm));
    CudaExchange& added = *exchanges.back();
    queue.expect(added.chunks());
    ++live;
    coded += added.state() != nullptr;
    return added;
  }

  /// Errors of the GPU and of the network since the last look. Does not block.
  void look() {
    throw_device_failure(communicator, wire, errors);
    for (; options.non_finite == compress::NonFinite::raise && judged < steps; ++judged) {
      const auto report = step.report(judged);
      if (!report) return;
      if ((report->flags & compress::flag_non_finite) == 0) continue;
      ++judged;
      throw NonFiniteError{
          fmt::format("rank {}: the gradients of step {} held NaN or Inf on some rank; it was not "
                      "committed, so residuals are those of before it",
                      communicator.rank(), report->sequence)};
    }
  }

  CudaExchange& at(std::size_t bucket) const {
    THINWIRE_EXPECTS(bucket < exchanges.size() && exchanges[bucket], InvalidArgument,
                     fmt::format("rank {}: bucket {} of {}{}", communicator.rank(), bucket,
                                 exchanges.size(), bucket < exchanges.size() ? " has ended" : ""));
    return *exchanges[bucket];
  }

  /// Calls visit(state) for the residuals of each bucket that has some.
  template <typename Visitor>
  void for_each_state(Visitor&& visit) const {
    for (const auto& exchange : exchanges) {
      if (exchange && exchange->state() != nullptr) visit(*exchange->state());
    }
  }

  /// Ends the buckets in which a parameter of `parameters` stands; their residuals are kept.
  void end_buckets_with(const std::set<std::string>& parameters) {
    for (std::size_t i = 0; i < exchanges.size(); ++i) {
      if (!exchanges[i]) continue;
      const std::string* const found = find_parameter(exchanges[i]->plan(), parameters);
      if (found == nullptr) continue;
      THINWIRE_EXPECTS(!queue.has(*exchanges[i]), InvalidArgument,
                       fmt::format("rank {}: parameter '{}' stands in bucket {}, whose step has "
                                   "not ended; call end_step before add_bucket",
                                   communicator.rank(), *found, i));
      if (const compress::CudaState* state = exchanges[i]->state()) {
        kept.worker.add(state->export_worker(queue.decoder));
        kept.server.add(state->export_server(queue.decoder));
        --coded;
      }
      ended_metrics += exchanges[i]->metrics();
      exchanges[i].reset();
      --live;
    }
  }

  std::vector<compress::Residual> move_to_owners_of(std::span<const compress::Plan* const> plans,
                                                    std::vector<compress::Residual> server) {
    return move_to_owners(communicator.size(), server, plans, [&](const auto& messages) {
      return exchange_device_messages(communicator, messages, queue.decoder);
    });
  }

  static constexpr int most_buckets = 1024;  // coded ones at a time, when they come by add_bucket

  Communicator& communicator;
  DeviceWire& wire;
  BucketLayout layout;
  CudaEngineOptions options;
  Timeout timeout;

  StepQueue queue;
  std::shared_ptr<MemoryResource> memory;
  std::shared_ptr<MemoryResource> exchange_memory = std::make_shared<ExchangeMemory>();
  compress::CudaStep step;
  ErrorRing errors;
  std::vector<std::unique_ptr<CudaExchange>> exchanges;  // null: the bucket has ended
  KeptResiduals kept;                                    // of parameters in no bucket
  CallMetrics ended_metrics;
  std::size_t live = 0;   // buckets that have not ended
  std::size_t coded = 0;  // those of them that are not plain
  CudaEvent caller, ended;
  std::uint64_t steps = 0;
  std::uint64_t judged = 0;  // steps whose report was looked at
};

CudaEngine::CudaEngine(Communicator& communicator, BucketLayout layout,
                       const CudaEngineOptions& options) {
  wire_of(communicator, "CudaEngine");
  const Timeout timeout = options.timeout == Timeout{} ? config().timeout : options.timeout;
  auto plans = compared_plans(communicator, layout, options, timeout);
  require_equal(communicator.control(), "engine",
                {{"coalesce_bytes", std::to_string(options.coalesce_bytes)}}, timeout);
  impl_ =
      std::make_unique<Impl>(communicator, std::move(layout), options, std::move(plans), timeout);
}

CudaEngine::~CudaEngine() {
  try {
    synchronize();
  } catch (const std::exception&) {  // it was or will be raised where somebody listens
  }
  for (const CudaStream* stream :
       {&impl_->queue.encoder, &impl_->queue.lane, &impl_->queue.decoder}) {
    try {
      stream->synchronize();  // the buffers are still in use until then
    } catch (const std::exception&) {
    }
  }
}

const BucketLayout& CudaEngine::layout() const { return impl_->layout; }

std::size_t CudaEngine::add_bucket(Bucket bucket) {
  Impl& impl = *impl_;
  impl.look();
  BucketLayout one;
  one.buckets.push_back(std::move(bucket));
  auto plans = compared_plans(impl.communicator, one, impl.options, impl.timeout);
  impl.end_buckets_with(parameters_of(plans[0]));
  CudaExchange& added = impl.add(std::move(plans[0]));
  const auto remembered = remembered_parameters(added.plan());
  if (!remembered.empty()) {
    const compress::Plan* const plan = &added.plan();
    added.state()->import_worker(impl.kept.worker.take(remembered), impl.queue.encoder);
    added.state()->import_server(
        impl.move_to_owners_of({&plan, 1}, impl.kept.server.take(remembered)), impl.queue.encoder);
  }
  impl.queue.encoder.synchronize();
  impl.layout.buckets.push_back(std::move(one.buckets[0]));
  return impl.exchanges.size() - 1;
}

const compress::Plan& CudaEngine::plan(std::size_t bucket) const {
  return impl_->at(bucket).plan();
}

void CudaEngine::restore(std::vector<compress::Residual> worker,
                         std::vector<compress::Residual> server) {
  Impl& impl = *impl_;
  impl.look();
  for (const auto& exchange : impl.exchanges) {
    if (exchange) impl.end_buckets_with(parameters_of(exchange->plan()));
  }
  impl.kept = {};
  impl.kept.worker.add(std::move(worker));
  impl.kept.server.add(std::move(server));
}

void CudaEngine::submit(std::size_t bucket, TensorView gradients, StreamView stream,
                        const float* inv_scale, const float* out_scale) {
  Impl& impl = *impl_;
  impl.look();
  CudaExchange& exchange = impl.at(bucket);
  THINWIRE_EXPECTS(
      !impl.queue.has(exchange), InvalidArgument,
      fmt::format("rank {}: bucket {} was submitted twice in one step; call end_step between steps",
                  impl.communicator.rank(), bucket));
  exchange.begin(gradients, stream, inv_scale, out_scale);
  impl.queue.hold(exchange, impl.coded == 0 && impl.queue.size() + 1 == impl.live);
}

void CudaEngine::wait(std::size_t bucket, StreamView stream) {
  Impl& impl = *impl_;
  impl.look();
  CudaExchange& exchange = impl.at(bucket);
  if (impl.queue.holds(exchange)) impl.queue.flush_for(stream, impl.coded == 0);
  impl.queue.join(exchange, stream);
}

std::uint64_t CudaEngine::end_step(StreamView stream, const float* found_inf) {
  Impl& impl = *impl_;
  impl.look();
  impl.queue.flush_for(stream, impl.coded == 0);
  if (impl.coded > 0) {
    const StreamView decoder = impl.queue.decoder;
    impl.queue.join_plain(decoder);
    if (found_inf != nullptr) StepQueue::order(impl.caller, stream, decoder);
    impl.step.end(decoder, found_inf);
    impl.ended.record(decoder);
    impl.ended.wait(stream);
    impl.ended.wait(impl.queue.encoder);
  } else {
    impl.queue.join_plain(stream);
  }
  impl.queue.clear();
  return impl.steps++;
}

std::optional<compress::CudaStepReport> CudaEngine::report(std::uint64_t step) const {
  if (impl_->coded == 0) return std::nullopt;
  return impl_->step.report(step);
}

void CudaEngine::poll() { impl_->look(); }

void CudaEngine::synchronize() {
  Impl& impl = *impl_;
  impl.look();
  impl.queue.flush();
  StepQueue::order(impl.caller, impl.queue.lane, impl.queue.decoder);
  impl.wire.wait_for({"step"}, impl.queue.decoder, impl.timeout);
  impl.look();
}

StreamView CudaEngine::exchange_stream() const { return impl_->queue.lane; }

void CudaEngine::abort(std::string_view reason, int culprit) noexcept {
  impl_->communicator.abort(reason, culprit);
}

std::vector<compress::Residual> CudaEngine::export_worker() const {
  auto all = impl_->kept.worker.all();
  impl_->for_each_state([&](const compress::CudaState& state) {
    append(all, state.export_worker(impl_->queue.decoder));
  });
  return all;
}

std::vector<compress::Residual> CudaEngine::export_server() const {
  auto all = impl_->kept.server.all();
  impl_->for_each_state([&](const compress::CudaState& state) {
    append(all, state.export_server(impl_->queue.decoder));
  });
  return all;
}

void CudaEngine::import_worker(std::span<const compress::Residual> residuals) {
  impl_->for_each_state(
      [&](compress::CudaState& state) { state.import_worker(residuals, impl_->queue.decoder); });
}

void CudaEngine::import_server(std::span<const compress::Residual> residuals) {
  impl_->for_each_state(
      [&](compress::CudaState& state) { state.import_server(residuals, impl_->queue.decoder); });
}

void CudaEngine::take_over(const CudaEngine& previous) {
  std::vector<const compress::Plan*> plans;
  for (const auto& exchange : impl_->exchanges) {
    if (exchange) plans.push_back(&exchange->plan());
  }
  import_worker(previous.export_worker());
  import_server(impl_->move_to_owners_of(plans, previous.export_server()));
}

CallMetrics CudaEngine::metrics() const {
  CallMetrics sum = impl_->ended_metrics;
  for (const auto& exchange : impl_->exchanges) {
    if (exchange) sum += exchange->metrics();
  }
  return sum;
}

CallMetrics CudaEngine::metrics(std::size_t bucket) const { return impl_->at(bucket).metrics(); }

}  // namespace thinwire::comm
