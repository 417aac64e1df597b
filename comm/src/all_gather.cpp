#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "exchange/lanes.hpp"
#include "exchange/shard_plans.hpp"
#include "failure.hpp"
#include "stopwatch.hpp"
#include "thinwire/comm/sharded.hpp"
#include "thinwire/core/config.hpp"

namespace thinwire::comm {

using compress::Phase;

struct CompressedAllGather::Impl {
  /// One rank's elements, as a plan of one shard: its owner encodes with it, everybody decodes.
  struct Shard {
    compress::Plan plan;
    std::unique_ptr<compress::Coder> coder;
  };

  Communicator& communicator;
  std::shared_ptr<Communicator> lane;
  DType dtype;
  std::vector<std::int64_t> boundaries;
  std::vector<std::unique_ptr<Shard>> shards;
  std::unique_ptr<compress::State> state;  // of the own shard's plan; no residual in it
  std::size_t slot_bytes = 0;              // of the largest shard
  Buffer sent, received;
  CallMetrics metrics;
  std::uint64_t sequence = 0;

  std::size_t slot_of(std::size_t rank) const {
    return shards[rank]->plan.slot_bytes(0, Phase::reduce);
  }

  compress::Verdict gather(ConstTensorView mine, TensorView out, const compress::CallState& call) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    {
      const Stopwatch watch{metrics.encode_ms};
      shards[rank]->coder->encode(0, mine, *state, call, {sent.data(), slot_of(rank)});
      state->discard();
    }
    metrics.payload_bytes += slot_bytes;
    metrics.wire_bytes += slot_bytes * (shards.size() - 1);
    {
      const Stopwatch watch{metrics.exchange_ms};
      lane->all_gather({sent.data(), slot_bytes}, {received.data(), received.size()})->wait();
    }
    const Stopwatch watch{metrics.decode_ms};
    compress::Verdict verdict;
    for (std::size_t owner = 0; owner < shards.size(); ++owner) {
      const std::int64_t from = boundaries[owner];
      const TensorView part{
          static_cast<std::byte*>(out.data) + static_cast<std::size_t>(from) * size_of(dtype),
          boundaries[owner + 1] - from, dtype};
      verdict.flags |= decode(owner, call, part).flags;
    }
    return verdict;
  }

  compress::Verdict decode(std::size_t owner, const compress::CallState& call, TensorView part) {
    const std::span<const std::byte> slot{received.data() + owner * slot_bytes, slot_of(owner)};
    try {
      return shards[owner]->coder->decode(0, slot, call, part);
    } catch (const FormatError& error) {  // each shard's plan knows one rank, 0
      throw FormatError{fmt::format("rank {}: the shard of rank {}: {}", communicator.rank(), owner,
                                    error.what()),
                        static_cast<int>(owner)};
    }
  }
};

CompressedAllGather::CompressedAllGather(
    Communicator& communicator, const compress::CodecSpec& codec,
    const std::vector<compress::Span>& spans, DType dtype, std::vector<std::int64_t> boundaries,
    std::shared_ptr<WorkerPool> pool, std::shared_ptr<MemoryResource> memory, SharedLanes* lanes) {
  auto plans = make_gather_plans(codec, spans, dtype, boundaries, communicator.size());
  std::size_t slot_bytes = 0;
  for (const compress::Plan& plan : plans) {
    slot_bytes = std::max(slot_bytes, plan.slot_bytes(0, Phase::reduce));
  }
  require_equal_layouts(communicator, plans, config().timeout);
  std::vector<std::unique_ptr<Impl::Shard>> shards;
  for (compress::Plan& plan : plans) {
    auto shard = std::make_unique<Impl::Shard>(Impl::Shard{std::move(plan), nullptr});
    shard->coder = compress::make_host_coder(shard->plan, pool);
    shards.push_back(std::move(shard));
  }
  const auto& own = shards[static_cast<std::size_t>(communicator.rank())]->plan;
  auto state = std::make_unique<compress::State>(own, 0, memory);
  impl_.reset(new Impl{communicator,
                       take_lane(communicator, lanes),
                       dtype,
                       std::move(boundaries),
                       std::move(shards),
                       std::move(state),
                       slot_bytes,
                       Buffer{memory, slot_bytes, "payload"},
                       Buffer{memory, slot_bytes * plans.size(), "payload"},
                       {},
                       0});
}

CompressedAllGather::~CompressedAllGather() = default;

compress::Verdict CompressedAllGather::run(ConstTensorView shard, TensorView out) {
  Impl& impl = *impl_;
  THINWIRE_EXPECTS(out.dtype == impl.dtype && out.numel >= impl.boundaries.back() &&
                       (out.data != nullptr || out.numel == 0),
                   InvalidArgument,
                   fmt::format("rank {}: all-gather of {} elements of {} into {} elements of {}",
                               impl.communicator.rank(), impl.boundaries.back(),
                               to_string(impl.dtype), out.numel, to_string(out.dtype)));
  ++impl.metrics.calls;
  try {
    return impl.gather(shard, out, {.sequence = ++impl.sequence});
  } catch (...) {
    abort_all(std::current_exception(), {&impl.communicator, impl.lane.get()});
    throw;
  }
}

const CallMetrics& CompressedAllGather::metrics() const { return impl_->metrics; }

}  // namespace thinwire::comm
