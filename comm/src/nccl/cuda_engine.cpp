#include "thinwire/comm/cuda_engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "../exchange/algorithm.hpp"
#include "../failure.hpp"
#include "cuda_exchange.hpp"
#include "nccl_communicator.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

NcclSession& session_of(Communicator& communicator) {
  auto* nccl = dynamic_cast<NcclCommunicator*>(&communicator);
  THINWIRE_EXPECTS(
      nccl != nullptr, InvalidArgument,
      fmt::format("CudaEngine needs a communicator of make_nccl_communicator; this one "
                  "is '{}'",
                  communicator.transport()));
  return nccl->session();
}

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

/// Where a group of buckets is coded.
struct Streams {
  StreamView encode, decode;
};

}  // namespace

struct CudaEngine::Impl {
  enum class Progress { idle, held, enqueued };

  Impl(NcclSession& session_, BucketLayout layout_, const CudaEngineOptions& options_,
       std::vector<compress::Plan> plans, Timeout timeout_)
      : session{session_},
        layout{std::move(layout_)},
        options{options_},
        timeout{timeout_},
        memory{options.memory ? options.memory : std::make_shared<DeviceMemory>(encoder)},
        step{memory, encoder, std::max<int>(1, static_cast<int>(plans.size()))},
        errors{memory},
        progress(plans.size(), Progress::idle) {
    const CudaParts parts{session.rank(), memory, std::make_shared<ExchangeMemory>(),
                          step,           errors, encoder};
    for (compress::Plan& plan : plans) {
      exchanges.push_back(make_cuda_exchange(parts, std::move(plan), options.algorithm));
      coded = coded || exchanges.back()->state() != nullptr;
      chunks.resize(std::max(chunks.size(), static_cast<std::size_t>(exchanges.back()->chunks())));
    }
    encoder.synchronize();  // memory and tables are ready on every stream
  }

  /// Errors of the GPU and of the network since the last look. Does not block.
  void look() {
    session.throw_failure();
    if (const auto error = errors.poll()) {
      const auto text = fmt::format("rank {}: step {}: {}", session.rank(), error->sequence,
                                    compress::describe(*error));
      session.abort(text, error->peer);
      throw FormatError{text};
    }
    for (; options.non_finite == compress::NonFinite::raise && judged < steps; ++judged) {
      const auto report = step.report(judged);
      if (!report) return;
      if ((report->flags & compress::flag_non_finite) == 0) continue;
      ++judged;
      throw NonFiniteError{
          fmt::format("rank {}: the gradients of step {} held NaN or Inf on some rank; it was not "
                      "committed, so residuals are those of before it",
                      session.rank(), report->sequence)};
    }
  }

  /// Calls body(exchange) for the held buckets that have this chunk.
  template <typename Body>
  void for_held(int chunk, Body body) {
    for (const std::size_t bucket : held) {
      if (chunk < exchanges[bucket]->chunks()) body(*exchanges[bucket]);
    }
  }

  /// The exchanges of one chunk of the held buckets as one NCCL group.
  template <typename Body>
  void exchange(const char* verb, int chunk, Body body) {
    session.run({verb, held_bytes}, wire, [&](const NcclFunctions& nccl, ncclComm_t communicator) {
      const Wire group{nccl, communicator, session.size(), wire.view().handle()};
      ncclResult_t result = ncclSuccess;
      for_held(chunk, [&](CudaExchange& exchange) {
        if (result == ncclSuccess) result = body(exchange, group);
      });
      return result;
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
    order(events.encoded, on.encode, wire);
    exchange("first exchange", chunk, [chunk](CudaExchange& bucket, const Wire& group) {
      return bucket.first(chunk, group);
    });
    order(events.exchanged, wire, on.decode);
    for_held(chunk, [&](CudaExchange& bucket) { bucket.combine(chunk, on.decode); });
  }

  void enqueue_second(int chunk, const Streams& on) {
    bool needed = false;
    for_held(chunk, [&](CudaExchange& bucket) { needed = needed || bucket.has_second(); });
    if (!needed) return;
    ChunkEvents& events = chunks[static_cast<std::size_t>(chunk)];
    order(events.combined, on.decode, wire);
    exchange("second exchange", chunk, [chunk](CudaExchange& bucket, const Wire& group) {
      return bucket.second(chunk, group);
    });
    order(events.gathered, wire, on.decode);
    for_held(chunk, [&](CudaExchange& bucket) { bucket.decode(chunk, on.decode); });
  }

  /// Sends the held buckets on their way together. The first exchange of a chunk stands before the
  /// second one of the chunk before it, so that the wire has work while the owner codes.
  void flush() {
    if (held.empty()) return;
    bool codes = false;
    int count = 0;
    for (const std::size_t bucket : held) {
      codes = codes || exchanges[bucket]->state() != nullptr;
      count = std::max(count, exchanges[bucket]->chunks());
    }
    // Where nothing is coded, the way leads over the wire alone.
    const Streams on = codes ? Streams{encoder, decoder} : Streams{wire, wire};
    for (const std::size_t bucket : held) exchanges[bucket]->ready.wait(on.encode);
    for (int chunk = 0; chunk < count; ++chunk) {
      enqueue_first(chunk, on);
      if (chunk > 0) enqueue_second(chunk - 1, on);
    }
    enqueue_second(count - 1, on);
    for (const std::size_t bucket : held) {
      exchanges[bucket]->done.record(on.decode);
      progress[bucket] = Progress::enqueued;
    }
    held.clear();
    held_bytes = 0;
  }

  /// `stream` waits for the buckets of this step that did not pass through the decoder.
  void wait_for_plain(StreamView stream) {
    for (std::size_t i = 0; i < exchanges.size(); ++i) {
      if (progress[i] == Progress::enqueued && exchanges[i]->state() == nullptr) {
        exchanges[i]->done.wait(stream);
      }
    }
  }

  NcclSession& session;
  BucketLayout layout;
  CudaEngineOptions options;
  Timeout timeout;

  CudaStream encoder;  // encodes
  CudaStream wire;     // every NCCL call
  CudaStream decoder;  // owners' steps and decodes: they wait for the wire, encodes do not
  std::shared_ptr<MemoryResource> memory;
  compress::CudaStep step;
  ErrorRing errors;
  std::vector<std::unique_ptr<CudaExchange>> exchanges;
  std::vector<ChunkEvents> chunks;
  CudaEvent caller, ended;
  bool coded = false;  // some bucket is not plain

  std::vector<Progress> progress;
  std::vector<std::size_t> held;  // submitted, and not yet on their way
  std::size_t held_bytes = 0;
  std::uint64_t steps = 0;
  std::uint64_t judged = 0;  // steps whose report was looked at
};

CudaEngine::CudaEngine(Communicator& communicator, BucketLayout layout,
                       const CudaEngineOptions& options) {
  NcclSession& session = session_of(communicator);
  const Timeout timeout = options.timeout == Timeout{} ? config().timeout : options.timeout;
  auto plans = compared_plans(communicator, layout, options, timeout);
  impl_ = std::make_unique<Impl>(session, std::move(layout), options, std::move(plans), timeout);
}

CudaEngine::~CudaEngine() {
  try {
    synchronize();
  } catch (const std::exception&) {  // it was or will be raised where somebody listens
  }
  for (CudaStream* stream : {&impl_->encoder, &impl_->wire, &impl_->decoder}) {
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
                   fmt::format("rank {}: bucket {} submitted; there are {}", impl.session.rank(),
                               bucket, impl.exchanges.size()));
  THINWIRE_EXPECTS(
      impl.progress[bucket] == Impl::Progress::idle, InvalidArgument,
      fmt::format("rank {}: bucket {} was submitted twice in one step; call end_step between steps",
                  impl.session.rank(), bucket));
  CudaExchange& exchange = *impl.exchanges[bucket];
  exchange.begin(gradients, inv_scale, out_scale);
  exchange.ready.record(stream);
  impl.progress[bucket] = Impl::Progress::held;
  impl.held.push_back(bucket);
  impl.held_bytes += exchange.first_bytes();
  if (impl.held_bytes >= impl.options.coalesce_bytes) impl.flush();
}

void CudaEngine::wait(std::size_t bucket, StreamView stream) {
  Impl& impl = *impl_;
  impl.look();
  if (impl.progress[bucket] == Impl::Progress::held) impl.flush();
  if (impl.progress[bucket] == Impl::Progress::enqueued) impl.exchanges[bucket]->done.wait(stream);
}

std::uint64_t CudaEngine::end_step(StreamView stream, const float* found_inf) {
  Impl& impl = *impl_;
  impl.look();
  impl.flush();
  if (impl.coded) {
    impl.wait_for_plain(impl.decoder);
    if (found_inf != nullptr) Impl::order(impl.caller, stream, impl.decoder);
    impl.step.end(impl.decoder, found_inf);
    impl.ended.record(impl.decoder);
    impl.ended.wait(stream);
    impl.ended.wait(impl.encoder);
  } else {
    impl.wait_for_plain(stream);
  }
  std::fill(impl.progress.begin(), impl.progress.end(), Impl::Progress::idle);
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
  Impl::order(impl.caller, impl.wire, impl.decoder);
  const auto end = impl.session.watch({"step"}, impl.decoder);
  impl.session.wait(*end, impl.timeout);
  impl.look();
}

void CudaEngine::abort(std::string_view reason, int culprit) noexcept {
  impl_->session.abort(reason, culprit);
}

std::vector<compress::Residual> CudaEngine::export_worker() const {
  std::vector<compress::Residual> all;
  for (const auto& exchange : impl_->exchanges) {
    if (exchange->state() == nullptr) continue;
    auto more = exchange->state()->export_worker(impl_->decoder);
    std::move(more.begin(), more.end(), std::back_inserter(all));
  }
  return all;
}

std::vector<compress::Residual> CudaEngine::export_server() const {
  std::vector<compress::Residual> all;
  for (const auto& exchange : impl_->exchanges) {
    if (exchange->state() == nullptr) continue;
    auto more = exchange->state()->export_server(impl_->decoder);
    std::move(more.begin(), more.end(), std::back_inserter(all));
  }
  return all;
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

CallMetrics CudaEngine::metrics() const {
  CallMetrics sum;
  for (const auto& exchange : impl_->exchanges) sum += exchange->metrics();
  return sum;
}

}  // namespace thinwire::comm
