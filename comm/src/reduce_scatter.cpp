#include <fmt/format.h>

#include <utility>

#include "exchange/fold_back.hpp"
#include "exchange/lanes.hpp"
#include "exchange/shard_plans.hpp"
#include "failure.hpp"
#include "stopwatch.hpp"
#include "thinwire/comm/sharded.hpp"
#include "thinwire/core/config.hpp"

namespace thinwire::comm {

using compress::Phase;

struct CompressedReduceScatter::Impl {
  Impl(Communicator& communicator_, compress::Plan plan_, std::shared_ptr<WorkerPool> pool,
       const std::shared_ptr<MemoryResource>& memory, SharedLanes* lanes)
      : communicator{communicator_},
        lane{take_lane(communicator, lanes)},
        plan{std::move(plan_)},
        state{plan, communicator.rank(), memory},
        coder{compress::make_host_coder(plan, std::move(pool))},
        sent{memory, plan.payload_bytes(Phase::reduce), "payload"},
        received{memory, plan.payload_bytes(Phase::reduce), "payload"} {}

  std::size_t chunk_bytes(int chunk) const {
    return plan.slot_bytes(chunk, Phase::reduce) * static_cast<std::size_t>(plan.ranks());
  }

  std::span<std::byte> encoded(int chunk) {
    return {sent.data() + plan.chunk_offset(chunk, Phase::reduce), chunk_bytes(chunk)};
  }

  WorkHandle post(int chunk) {
    const std::size_t offset = plan.chunk_offset(chunk, Phase::reduce);
    const std::size_t bytes = chunk_bytes(chunk);
    metrics.payload_bytes += bytes;
    metrics.wire_bytes += bytes - plan.slot_bytes(chunk, Phase::reduce);
    return lane->all_to_all({sent.data() + offset, bytes}, {received.data() + offset, bytes});
  }

  compress::Verdict reduce(ConstTensorView gradients, TensorView out,
                           const compress::CallState& call) {
    std::vector<WorkHandle> works;
    encoded_chunks.clear();
    for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
      const Stopwatch watch{metrics.encode_ms};
      coder->encode(chunk, gradients, state, call, encoded(chunk));
      encoded_chunks.push_back(chunk);
      works.push_back(post(chunk));
    }
    const std::int64_t origin =
        plan.settings().boundaries[static_cast<std::size_t>(communicator.rank())];
    compress::Verdict verdict;
    for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
      {
        const Stopwatch watch{metrics.exchange_ms};
        works[static_cast<std::size_t>(chunk)]->wait();
      }
      const Stopwatch watch{metrics.decode_ms};
      const std::byte* slots = received.data() + plan.chunk_offset(chunk, Phase::reduce);
      verdict.flags |=
          coder->reduce(chunk, {slots, chunk_bytes(chunk)}, communicator.rank(), call, out, origin)
              .flags;
    }
    return agree(verdict);
  }

  /// A reduce-scatter has no second phase to carry the flags: every rank saw only its own shard.
  compress::Verdict agree(compress::Verdict mine) {
    std::uint64_t words[2] = {mine.flags & 1u, mine.flags & 2u};
    lane->allreduce_max(words)->wait();
    return {static_cast<std::uint32_t>(words[0] | words[1])};
  }

  Communicator& communicator;
  std::shared_ptr<Communicator> lane;
  compress::Plan plan;
  compress::State state;
  std::unique_ptr<compress::Coder> coder;
  Buffer sent, received;
  CallMetrics metrics;
  std::vector<int> encoded_chunks;  // of the current call
  std::uint64_t sequence = 0;
};

CompressedReduceScatter::CompressedReduceScatter(Communicator& communicator, compress::Plan plan,
                                                 std::shared_ptr<WorkerPool> pool,
                                                 std::shared_ptr<MemoryResource> memory,
                                                 SharedLanes* lanes) {
  require_reduce_scatter(plan);
  require_equal_plans(communicator, {&plan, 1}, Algorithm::two_phase, config().timeout);
  impl_ = std::make_unique<Impl>(communicator, std::move(plan), std::move(pool), memory, lanes);
}

CompressedReduceScatter::~CompressedReduceScatter() = default;

compress::Verdict CompressedReduceScatter::run(ConstTensorView gradients, TensorView out,
                                               const float* inv_scale, const float* out_scale) {
  Impl& impl = *impl_;
  impl.state.begin_call();
  const compress::CallState call{++impl.sequence, inv_scale, out_scale};
  ++impl.metrics.calls;
  try {
    return impl.reduce(gradients, out, call);
  } catch (...) {
    abort_all(std::current_exception(), {&impl.communicator, impl.lane.get()});
    take_back(impl.state, impl.encoded_chunks, [&](int chunk) { return impl.encoded(chunk); });
    throw;
  }
}

void CompressedReduceScatter::end_step(bool commit) {
  if (commit) {
    impl_->state.commit();
  } else {
    impl_->state.discard();
  }
}

compress::State& CompressedReduceScatter::state() { return impl_->state; }
const CallMetrics& CompressedReduceScatter::metrics() const { return impl_->metrics; }

}  // namespace thinwire::comm
