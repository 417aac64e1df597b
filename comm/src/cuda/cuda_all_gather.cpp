#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "../exchange/shard_plans.hpp"
#include "../failure.hpp"
#include "cuda_collective.hpp"
#include "thinwire/comm/cuda_sharded.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {

using compress::Phase;

struct CudaAllGather::Impl : CudaCollective {
  /// One rank's elements, as a plan of one shard: its owner encodes with it, everybody decodes.
  struct Shard {
    Shard(compress::Plan plan_, Impl& impl)
        : plan{std::move(plan_)}, coder{plan, impl.memory, impl.step, impl.errors, impl.making} {}
    compress::Plan plan;
    compress::CudaCoder coder;
  };

  Impl(Communicator& communicator_, std::vector<compress::Plan> plans, DType dtype_,
       std::vector<std::int64_t> boundaries_, std::shared_ptr<MemoryResource> memory_)
      : CudaCollective{communicator_, "CudaAllGather", std::move(memory_)},
        dtype{dtype_},
        boundaries{std::move(boundaries_)} {
    for (compress::Plan& plan : plans) {
      slot_bytes = std::max(slot_bytes, plan.slot_bytes(0, Phase::reduce));
      shards.push_back(std::make_unique<Shard>(std::move(plan), *this));
    }
    state = std::make_unique<compress::CudaState>(own().plan, 0, memory, step, making);
    sent = Buffer{exchange_memory, slot_bytes, "payload"};
    received = Buffer{exchange_memory, slot_bytes * shards.size(), "payload"};
    making.synchronize();
  }

  Shard& own() { return *shards[static_cast<std::size_t>(communicator.rank())]; }

  void gather(ConstTensorView mine, TensorView out, const compress::CudaCall& call) {
    own().coder.encode(0, mine, *state, call,
                       {sent.data(), own().plan.slot_bytes(0, Phase::reduce), Device::cuda});
    wire.exchange({"all-gather", slot_bytes}, call.stream, Calls::one,
                  [&](DeviceWire::Group& group) {
                    group.all_gather(sent.data(), received.data(), slot_bytes);
                  });
    for (std::size_t owner = 0; owner < shards.size(); ++owner) {
      const std::int64_t from = boundaries[owner];
      const TensorView part{
          static_cast<std::byte*>(out.data) + static_cast<std::size_t>(from) * size_of(dtype),
          boundaries[owner + 1] - from, dtype, Device::cuda};
      const std::size_t bytes = shards[owner]->plan.slot_bytes(0, Phase::reduce);
      shards[owner]->coder.decode(0, {received.data() + owner * slot_bytes, bytes, Device::cuda},
                                  call, part);
    }
    step.end(call.stream);
    metrics.payload_bytes += slot_bytes;
    metrics.wire_bytes += slot_bytes * (shards.size() - 1);
    metrics.plain_wire_bytes += mine.bytes() * (shards.size() - 1);
  }

  DType dtype;
  std::vector<std::int64_t> boundaries;
  std::vector<std::unique_ptr<Shard>> shards;
  std::unique_ptr<compress::CudaState> state;  // of the own shard's plan; no residual in it
  std::size_t slot_bytes = 0;                  // of the largest shard
  Buffer sent, received;
};

CudaAllGather::CudaAllGather(Communicator& communicator, const compress::CodecSpec& codec,
                             const std::vector<compress::Span>& spans, DType dtype,
                             std::vector<std::int64_t> boundaries,
                             std::shared_ptr<MemoryResource> memory) {
  wire_of(communicator, "CudaAllGather");
  auto plans = make_gather_plans(codec, spans, dtype, boundaries, communicator.size());
  require_equal_layouts(communicator, plans, config().timeout);
  impl_ = std::make_unique<Impl>(communicator, std::move(plans), dtype, std::move(boundaries),
                                 std::move(memory));
}

CudaAllGather::~CudaAllGather() { impl_->settle(); }

std::uint64_t CudaAllGather::run(ConstTensorView shard, TensorView out, StreamView stream) {
  Impl& impl = *impl_;
  impl.look();
  THINWIRE_EXPECTS(
      out.dtype == impl.dtype && out.numel >= impl.boundaries.back() &&
          out.device == Device::cuda && (out.data != nullptr || out.numel == 0),
      InvalidArgument,
      fmt::format("rank {}: all-gather of {} elements of {} on the GPU into {} elements of {}",
                  impl.communicator.rank(), impl.boundaries.back(), to_string(impl.dtype),
                  out.numel, to_string(out.dtype)));
  ++impl.metrics.calls;
  impl.gather(shard, out, {.stream = stream});
  impl.enqueued(stream);
  return impl.steps++;
}

std::optional<compress::CudaStepReport> CudaAllGather::report(std::uint64_t step) const {
  return impl_->step.report(step);
}

void CudaAllGather::synchronize() { impl_->synchronize(); }
const CallMetrics& CudaAllGather::metrics() const { return impl_->metrics; }

}  // namespace thinwire::comm
