#include <fmt/format.h>

#include <utility>

#include "../exchange/bucket_exchange.hpp"
#include "../exchange/shard_plans.hpp"
#include "../failure.hpp"
#include "cuda/agreement.hpp"
#include "cuda/try.hpp"
#include "cuda_collective.hpp"
#include "thinwire/comm/cuda_sharded.hpp"
#include "thinwire/compress/cuda_coder.hpp"

namespace thinwire::comm {

using compress::Phase;

struct CudaReduceScatter::Impl : CudaCollective {
  Impl(Communicator& communicator_, compress::Plan plan_, std::shared_ptr<MemoryResource> memory_)
      : CudaCollective{communicator_, "CudaReduceScatter", std::move(memory_)},
        plan{std::move(plan_)},
        state{plan, communicator.rank(), memory, step, making},
        coder{plan, memory, step, errors, making},
        sent{exchange_memory, plan.payload_bytes(Phase::reduce), "payload"},
        received{exchange_memory, plan.payload_bytes(Phase::reduce), "payload"},
        words{exchange_memory, flag_words * sizeof(std::uint64_t), "payload"},
        verdict{exchange_memory, sizeof(float), "payload"} {
    THINWIRE_CUDA_TRY(cudaMemsetAsync(words.data(), 0, words.size(), making.view().handle()));
    making.synchronize();
  }

  ByteView slots(const Buffer& buffer, int chunk) const {
    return {buffer.data() + plan.chunk_offset(chunk, Phase::reduce),
            plan.slot_bytes(chunk, Phase::reduce) * static_cast<std::size_t>(plan.ranks()),
            Device::cuda};
  }

  void reduce(int chunk, ConstTensorView gradients, TensorView out,
              const compress::CudaCall& call) {
    const std::size_t slot = plan.slot_bytes(chunk, Phase::reduce);
    const ByteView to = slots(sent, chunk);
    const ByteView from = slots(received, chunk);
    coder.encode(chunk, gradients, state, call, to);
    wire.exchange({"reduce-scatter", to.size}, call.stream, Calls::several,
                  [&](DeviceWire::Group& group) { group.all_to_all(to.data, from.data, slot); });
    const int rank = communicator.rank();
    coder.reduce(chunk, from, rank, call, out,
                 plan.settings().boundaries[static_cast<std::size_t>(rank)]);
    cuda::collect_flags(words.as<std::uint64_t>(), from.data, slot, plan.ranks(), call.stream);
    metrics.payload_bytes += to.size;
    metrics.wire_bytes += to.size - slot;
  }

  static constexpr std::size_t flag_words = 2;
  compress::Plan plan;
  compress::CudaState state;
  compress::CudaCoder coder;
  Buffer sent, received;
  Buffer words;    // flags that this rank saw in the step; agreed on at its end
  Buffer verdict;  // a float: the step is skipped
};

CudaReduceScatter::CudaReduceScatter(Communicator& communicator, compress::Plan plan,
                                     std::shared_ptr<MemoryResource> memory) {
  wire_of(communicator, "CudaReduceScatter");
  require_reduce_scatter(plan);
  require_equal_plans(communicator, {&plan, 1}, Algorithm::two_phase, config().timeout);
  impl_ = std::make_unique<Impl>(communicator, std::move(plan), std::move(memory));
}

CudaReduceScatter::~CudaReduceScatter() { impl_->settle(); }

void CudaReduceScatter::run(ConstTensorView gradients, TensorView out, StreamView stream,
                            const float* inv_scale, const float* out_scale) {
  Impl& impl = *impl_;
  impl.look();
  const auto ranks = static_cast<std::size_t>(impl.plan.ranks());
  ++impl.metrics.calls;
  impl.metrics.plain_wire_bytes += ring_bytes(gradients.bytes(), ranks) / 2;
  for (int chunk = 0; chunk < impl.plan.chunks(); ++chunk) {
    impl.reduce(chunk, gradients, out, {stream, inv_scale, out_scale});
  }
  impl.enqueued(stream);
}

std::uint64_t CudaReduceScatter::end_step(StreamView stream, const float* found_inf) {
  Impl& impl = *impl_;
  impl.look();
  // No second phase carries the flags: every rank saw only those of its own shard.
  auto* words = impl.words.as<std::uint64_t>();
  impl.wire.exchange({"verdict"}, stream, Calls::one, [&](DeviceWire::Group& group) {
    group.allreduce_max(words, Impl::flag_words);
  });
  cuda::judge(impl.verdict.as<float>(), words, found_inf, stream);
  impl.step.end(stream, impl.verdict.as<float>());
  impl.enqueued(stream);
  return impl.steps++;
}

std::optional<compress::CudaStepReport> CudaReduceScatter::report(std::uint64_t step) const {
  return impl_->step.report(step);
}

void CudaReduceScatter::synchronize() { impl_->synchronize(); }
compress::CudaState& CudaReduceScatter::state() { return impl_->state; }
const CallMetrics& CudaReduceScatter::metrics() const { return impl_->metrics; }

}  // namespace thinwire::comm
