#include "thinwire/comm/cuda_engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "../exchange/algorithm.hpp"
#include "../failure.hpp"
#include "../residual_exchange.hpp"
#include "cuda_exchange.hpp"
#include "device_failure.hpp"
#include "device_messages.hpp"
#include "device_wire.hpp"
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
  require_equal(communicator.control(), "engine",
                {{"coalesce_bytes", std::to_string(options.coalesce_bytes)}}, timeout);
  return plans;
}

/// Events of one chunk's way through the streams, for all buckets that travel together.
struct ChunkEvents {
  CudaEvent encoded, exchanged, combined, gathered;
};

/// Where the stages of a group of buckets are enqueued.
struct Streams {
  StreamView encode, wire, decode;
};

}  // namespace

struct CudaEngine::Impl {
  enum class Progress { idle, held, enqueued };

  /// Where a bucket's means are complete: after what `stream` holds, or already at an event there.
  struct End {
    StreamView stream;
    const CudaEvent* done = nullptr;
  };

  Impl(Communicator& communicator_, BucketLayout layout_, const CudaEngineOptions& options_,
       std::vector<compress::Plan> plans, Timeout timeout_)
      : communicator{communicator_},
        wire{wire_of(communicator, "CudaEngine")},
        layout{std::move(layout_)},
        options{options_},
        timeout{timeout_},
        memory{options.memory ? options.memory : std::make_shared<DeviceMemory>(encoder)},
        step{memory, encoder, std::max<int>(1, static_cast<int>(plans.size()))},
        errors{memory},
        progress(plans.size(), Progress::idle),
        ends(plans.size()) {
    const CudaParts parts{communicator.rank(),
                          communicator.size(),
                          memory,
                          std::make_shared<ExchangeMemory>(),
                          step,
                          errors,
                          encoder};
    for (compress::Plan& plan : plans) {
      exchanges.push_back(make_cuda_exchange(parts, std::move(plan), options.algorithm));
      coded = coded || exchanges.back()->state() != nullptr;
      chunks.resize(std::max(chunks.size(), static_cast<std::size_t>(exchanges.back()->chunks())));
    }
    encoder.synchronize();  // memory and tables are ready on every stream
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

  /// The residuals of all buckets, by export_one(state, stream).
  template <typename Export>
  std::vector<compress::Residual> gathered(Export export_one) const {
    std::vector<compress::Residual> all;
    for (const auto& exchange : exchanges) {
      if (exchange->state() == nullptr) continue;
      auto more = export_one(*exchange->state(), decoder);
      std::move(more.begin(), more.end(), std::back_inserter(all));
    }
    return all;
  }

  /// Calls body(exchange) for the held buckets that have this chunk.
  template <typename Body>
  void for_held(int chunk, Body body) {
    for (const std::size_t bucket : held) {
      if (chunk < exchanges[bucket]->chunks()) body(*exchanges[bucket]);
    }
  }

  /// The exchanges of one chunk of the held buckets as one group.
  template <typename Body>
  void exchange(const char* verb, int chunk, StreamView stream, Body body) {
    const Calls calls = held.size() == 1 && held_are_plain() ? Calls::one : Calls::several;
    wire.exchange({verb, held_bytes}, stream, calls, [&](DeviceWire::Group& group) {
      for_held(chunk, [&](CudaExchange& exchange) { body(exchange, group); });
    });
  }

  /// What `to` gets from now on comes after what `from` holds.
  static void order(CudaEvent& event, StreamView from, StreamView to) {
    if (from.handle() == to.handle()) return;
    event.record(from);
    event.wait(to);
  }

  void enqueue_first(int chunk, const Streams& on) {
    ChunkEvents& events = chunks[static_cast<std::size_t>(chunk)];
    for_held(chunk, [&](CudaExchange& bucket) { bucket.encode(chunk, on.encode); });
    order(events.encoded, on.encode, on.wire);
    exchange("first exchange", chunk, on.wire,
             [chunk](CudaExchange& bucket, DeviceWire::Group& to) { bucket.first(chunk, to); });
    order(events.exchanged, on.wire, on.decode);
    for_held(chunk, [&](CudaExchange& bucket) { bucket.combine(chunk, on.decode); });
  }

  void enqueue_second(int chunk, const Streams& on) {
    bool needed = false;
    for_held(chunk, [&](CudaExchange& bucket) { needed = needed || bucket.has_second(); });
    if (!needed) return;
    ChunkEvents& events = chunks[static_cast<std::size_t>(chunk)];
    order(events.combined, on.decode, on.wire);
    exchange("second exchange", chunk, on.wire,
             [chunk](CudaExchange& bucket, DeviceWire::Group& to) { bucket.second(chunk, to); });
    order(events.gathered, on.wire, on.decode);
    for_held(chunk, [&](CudaExchange& bucket) { bucket.decode(chunk, on.decode); });
  }

  bool held_are_plain() const {
    return std::all_of(held.begin(), held.end(), [this](std::size_t bucket) {
      return exchanges[bucket]->state() == nullptr;
    });
  }

  /// A bucket was handed over: it leaves now, or is held back for those that come. The last of a
  /// step in which nothing is coded are: whoever waits for them lends its own stream, and nothing
  /// stands between the caller and the transport then.
  void hold(std::size_t bucket) {
    progress[bucket] = Progress::held;
    held.push_back(bucket);
    held_bytes += exchanges[bucket]->first_bytes();
    ++submitted;
    const bool waits_for_caller = !coded && submitted == exchanges.size();
    if (held_bytes >= options.coalesce_bytes && !waits_for_caller) flush();
  }

  /// Sends the held buckets on their way together.
  void flush() {
    if (held.empty()) return;
    // Where nothing is coded, the way leads over the wire alone.
    const Streams on =
        held_are_plain() ? Streams{lane, lane, lane} : Streams{encoder, lane, decoder};
    enqueue_held(on);
    CudaEvent& done = exchanges[held.back()]->done;
    done.record(on.decode);
    let_go({on.decode, &done});
  }

  /// The same for `stream`, which waits for them: they take no other where they need none.
  void flush_for(StreamView stream) {
    const bool own = !coded && std::all_of(held.begin(), held.end(), [&](std::size_t bucket) {
      const CudaExchange& exchange = *exchanges[bucket];
      return exchange.caller().handle() == stream.handle() && !exchange.scaled();
    });
    if (!own) return flush();
    if (held.empty()) return;
    for (std::size_t i = 0; i < exchanges.size(); ++i) join(i, stream);  // they were first
    enqueue_held({stream, stream, stream});
    let_go({stream, nullptr});
  }

  /// The first exchange of a chunk stands before the second one of the chunk before it, so that the
  /// wire has work while the owner codes.
  void enqueue_held(const Streams& on) {
    int count = 0;
    const CudaExchange* former = nullptr;
    for (const std::size_t bucket : held) {
      CudaExchange& exchange = *exchanges[bucket];
      count = std::max(count, exchange.chunks());
      if (former == nullptr || former->caller().handle() != exchange.caller().handle()) {
        order(exchange.ready, exchange.caller(), on.encode);
      }
      former = &exchange;
    }
    for (int chunk = 0; chunk < count; ++chunk) {
      enqueue_first(chunk, on);
      if (chunk > 0) enqueue_second(chunk - 1, on);
    }
    enqueue_second(count - 1, on);
  }

  void let_go(const End& end) {
    for (const std::size_t bucket : held) {
      progress[bucket] = Progress::enqueued;
      ends[bucket] = end;
    }
    held.clear();
    held_bytes = 0;
  }

  /// `stream` waits for the buckets of this step that did not pass through the coder.
  void join_plain(StreamView stream) {
    for (std::size_t i = 0; i < exchanges.size(); ++i) {
      if (exchanges[i]->state() == nullptr) join(i, stream);
    }
  }

  /// `stream` waits for a bucket that is on its way.
  void join(std::size_t bucket, StreamView stream) {
    if (progress[bucket] != Progress::enqueued) return;
    const End& end = ends[bucket];
    if (end.done != nullptr) {
      end.done->wait(stream);
    } else {
      order(exchanges[bucket]->done, end.stream, stream);
    }
  }

  Communicator& communicator;
  DeviceWire& wire;
  BucketLayout layout;
  CudaEngineOptions options;
  Timeout timeout;

  CudaStream encoder;  // encodes
  CudaStream lane;     // exchanges
  CudaStream decoder;  // owners' steps and decodes: they wait for the wire, encodes do not
  std::shared_ptr<MemoryResource> memory;
  compress::CudaStep step;
  ErrorRing errors;
  std::vector<std::unique_ptr<CudaExchange>> exchanges;
  std::vector<ChunkEvents> chunks;
  CudaEvent caller, ended;
  bool coded = false;  // some bucket is not plain

  std::vector<Progress> progress;
  std::vector<End> ends;          // of the buckets that are on their way
  std::vector<std::size_t> held;  // submitted, and not yet on their way
  std::size_t submitted = 0;      // in this step
  std::size_t held_bytes = 0;
  std::uint64_t steps = 0;
  std::uint64_t judged = 0;  // steps whose report was looked at
};

CudaEngine::CudaEngine(Communicator& communicator, BucketLayout layout,
                       const CudaEngineOptions& options) {
  wire_of(communicator, "CudaEngine");
  const Timeout timeout = options.timeout == Timeout{} ? config().timeout : options.timeout;
  auto plans = compared_plans(communicator, layout, options, timeout);
  impl_ =
      std::make_unique<Impl>(communicator, std::move(layout), options, std::move(plans), timeout);
}

CudaEngine::~CudaEngine() {
  try {
    synchronize();
  } catch (const std::exception&) {  // it was or will be raised where somebody listens
  }
  for (CudaStream* stream : {&impl_->encoder, &impl_->lane, &impl_->decoder}) {
    try {
      stream->synchronize();  // the buffers are still in use until then
    } catch (const std::exception&) {
    }
  }
}

const BucketLayout& CudaEngine::layout() const { return impl_->layout; }

void CudaEngine::submit(std::size_t bucket, TensorView gradients, StreamView stream,
                        const float* inv_scale, const float* out_scale) {
  Impl& impl = *impl_;
  impl.look();
  THINWIRE_EXPECTS(bucket < impl.exchanges.size(), InvalidArgument,
                   fmt::format("rank {}: bucket {} submitted; there are {}",
                               impl.communicator.rank(), bucket, impl.exchanges.size()));
  THINWIRE_EXPECTS(
      impl.progress[bucket] == Impl::Progress::idle, InvalidArgument,
      fmt::format("rank {}: bucket {} was submitted twice in one step; call end_step between steps",
                  impl.communicator.rank(), bucket));
  CudaExchange& exchange = *impl.exchanges[bucket];
  exchange.begin(gradients, stream, inv_scale, out_scale);
  impl.hold(bucket);
}

void CudaEngine::wait(std::size_t bucket, StreamView stream) {
  Impl& impl = *impl_;
  impl.look();
  if (impl.progress[bucket] == Impl::Progress::held) impl.flush_for(stream);
  impl.join(bucket, stream);
}

std::uint64_t CudaEngine::end_step(StreamView stream, const float* found_inf) {
  Impl& impl = *impl_;
  impl.look();
  impl.flush_for(stream);
  if (impl.coded) {
    impl.join_plain(impl.decoder);
    if (found_inf != nullptr) Impl::order(impl.caller, stream, impl.decoder);
    impl.step.end(impl.decoder, found_inf);
    impl.ended.record(impl.decoder);
    impl.ended.wait(stream);
    impl.ended.wait(impl.encoder);
  } else {
    impl.join_plain(stream);
  }
  std::fill(impl.progress.begin(), impl.progress.end(), Impl::Progress::idle);
  impl.submitted = 0;
  return impl.steps++;
}

std::optional<compress::CudaStepReport> CudaEngine::report(std::uint64_t step) const {
  if (!impl_->coded) return std::nullopt;
  return impl_->step.report(step);
}

void CudaEngine::synchronize() {
  Impl& impl = *impl_;
  impl.look();
  impl.flush();
  Impl::order(impl.caller, impl.lane, impl.decoder);
  impl.wire.wait_for({"step"}, impl.decoder, impl.timeout);
  impl.look();
}

void CudaEngine::abort(std::string_view reason, int culprit) noexcept {
  impl_->communicator.abort(reason, culprit);
}

std::vector<compress::Residual> CudaEngine::export_worker() const {
  return impl_->gathered(
      [](const compress::CudaState& state, StreamView on) { return state.export_worker(on); });
}

std::vector<compress::Residual> CudaEngine::export_server() const {
  return impl_->gathered(
      [](const compress::CudaState& state, StreamView on) { return state.export_server(on); });
}

void CudaEngine::import_worker(std::span<const compress::Residual> residuals) {
  for (const auto& exchange : impl_->exchanges) {
    if (exchange->state() != nullptr) exchange->state()->import_worker(residuals, impl_->decoder);
  }
}

void CudaEngine::import_server(std::span<const compress::Residual> residuals) {
  for (const auto& exchange : impl_->exchanges) {
    if (exchange->state() != nullptr) exchange->state()->import_server(residuals, impl_->decoder);
  }
}

void CudaEngine::take_over(const CudaEngine& previous) {
  std::vector<const compress::Plan*> plans;
  for (const auto& exchange : impl_->exchanges) plans.push_back(&exchange->plan());
  import_worker(previous.export_worker());
  Communicator& communicator = impl_->communicator;
  import_server(move_to_owners(
      communicator.size(), previous.export_server(), plans, [&](const auto& messages) {
        return exchange_device_messages(communicator, messages, impl_->decoder);
      }));
}

CallMetrics CudaEngine::metrics() const {
  CallMetrics sum;
  for (const auto& exchange : impl_->exchanges) sum += exchange->metrics();
  return sum;
}

}  // namespace thinwire::comm
