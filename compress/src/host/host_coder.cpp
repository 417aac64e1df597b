#include <algorithm>
#include <memory>
#include <utility>

#include "coder_checks.hpp"
#include "host/layout.hpp"
#include "host/parallel.hpp"
#include "host/slots.hpp"
#include "host/topk.hpp"
#include "run_layout.hpp"
#include "simd/kernels.hpp"
#include "thinwire/compress/coder.hpp"

namespace thinwire::compress {
namespace {

/// From this size on an array that is only written goes past the caches.
constexpr std::size_t stream_bytes = std::size_t{1} << 20;

float scale_or_one(const float* scale) { return scale != nullptr ? *scale : 1.0f; }

bool is_streamed(std::size_t bytes) { return bytes >= stream_bytes && simd::streaming_pays(); }
bool is_streamed(const TensorView& out) { return is_streamed(out.bytes()); }

/// The residuals of one side of error feedback.
TopkResidual residual_memory(const float* committed, float* next, std::int64_t elements) {
  const bool streamed = is_streamed(static_cast<std::size_t>(elements) * sizeof(float));
  return {committed, next, streamed && committed != next};
}

void set_residual(simd::EncodeStretch& job, const TopkResidual& memory, std::int64_t at) {
  job.residual = memory.committed + at;
  job.residual_next = memory.next + at;
  const bool aligned = reinterpret_cast<std::uintptr_t>(job.residual_next) % 64 == 0;
  job.memory = memory.streamed && aligned ? simd::Memory::streamed : simd::Memory::cached;
}

class HostCoder final : public Coder {
 public:
  HostCoder(const Plan& plan, std::shared_ptr<WorkerPool> pool)
      : plan_{&plan},
        pool_{std::move(pool)},
        layout_{plan},
        slots_{plan, *pool_},
        topk_{plan, *pool_} {}

  void encode(int chunk, ConstTensorView gradients, State& state, const CallState& call,
              std::span<std::byte> slots) override {
    check_encode(*plan_, chunk, gradients, state, slots);
    const TopkResidual worker =
        residual_memory(state.worker_committed(), state.worker_next(), plan_->residual_elements());
    for (int shard = 0; shard < plan_->ranks(); ++shard) slots_.totals(chunk, shard).reset(0);
    const auto items = layout_.items(chunk);
    parallel_items(*pool_, items.size(), [&](std::size_t i) {
      const WorkItem& item = items[i];
      const auto slot = slots_.slot(slots, chunk, Phase::reduce, item.shard);
      SlotTotals& totals = slots_.totals(chunk, item.shard);
      const auto kernels = kernels_of(item);
      for (const Stretch& stretch : item.stretches) {
        simd::EncodeStretch job = job_of(item, stretch, item.run->offset, slot);
        job.source = static_cast<const std::byte*>(gradients.data) +
                     static_cast<std::size_t>(stretch.source()) * size_of(gradients.dtype);
        job.dtype = gradients.dtype;
        job.inv_scale = scale_or_one(call.inv_scale);
        if (stretch.piece->residual >= 0) {
          set_residual(job, worker, stretch.piece->residual + stretch.offset);
        }
        totals.flags |= kernels.encode(job);
      }
      totals.digest += HostSlots::digest_item(item, item.run->offset, slot);
      simd::stream_fence();
    });
    for (int shard = 0; shard < plan_->ranks(); ++shard) {
      const auto slot = slots_.slot(slots, chunk, Phase::reduce, shard);
      SlotTotals& totals = slots_.totals(chunk, shard);
      for_each_topk_run(shard, chunk, [&](const Run& run) {
        totals.flags |= topk_.encode(run, gradients, scale_or_one(call.inv_scale), worker,
                                     slot.subspan(run.offset));
      });
      slots_.finish(shard, chunk, Phase::reduce, call.sequence, totals, layout_.items(chunk, shard),
                    slot);
    }
    state.mark_worker_written();
  }

  void reduce_encode(int chunk, std::span<const std::byte> slots, State& state,
                     const CallState& call, std::span<std::byte> slot_out) override {
    check_reduce_encode(*plan_, chunk, slots, state, slot_out);
    const int shard = state.shard();
    const std::uint32_t seen = slots_.check(chunk, Phase::reduce, shard, call.sequence, slots);
    const TopkResidual server = residual_memory(state.server_committed(), state.server_next(),
                                                plan_->server_elements(shard));
    SlotTotals& totals = slots_.totals(chunk, shard);
    totals.reset(seen);
    const auto items = layout_.items(chunk, shard);
    parallel_items(*pool_, items.size(), [&](std::size_t i) {
      const WorkItem& item = items[i];
      const auto kernels = kernels_of(item);
      for (const Stretch& stretch : item.stretches) {
        simd::EncodeStretch job = job_of(item, stretch, item.run->offset_out, slot_out);
        job.payloads = payloads_of(item, stretch, slots, chunk);
        if (stretch.piece->server >= 0) {
          set_residual(job, server, stretch.piece->server + stretch.offset);
        }
        totals.flags |= kernels.encode(job);
      }
      totals.digest += HostSlots::digest_item(item, item.run->offset_out, slot_out);
      simd::stream_fence();
    });
    for_each_topk_run(shard, chunk, [&](const Run& run) {
      totals.flags |= topk_.reduce_encode(run, reduce_peers(chunk, run, slots), server,
                                          slot_out.subspan(run.offset_out));
    });
    slots_.finish(shard, chunk, Phase::gather, call.sequence, totals, items, slot_out);
    state.mark_server_written();
  }

  Verdict decode(int chunk, std::span<const std::byte> slots, const CallState& call,
                 TensorView gradients) override {
    check_decode(*plan_, chunk, slots, gradients);
    const Verdict verdict{slots_.check(chunk, Phase::gather, 0, call.sequence, slots)};
    const float scale = scale_or_one(call.out_scale);
    const bool streamed = is_streamed(gradients);
    decode_items(layout_.items(chunk), scale, gradients, 0,
                 [&](const WorkItem& item, const Stretch& stretch, simd::DecodeStretch& job) {
                   const auto slot = slots_.slot(slots, chunk, Phase::gather, item.shard);
                   job.payloads = payload_of(item, stretch, item.run->offset_out, slot);
                 });
    for (int shard = 0; shard < plan_->ranks(); ++shard) {
      const auto slot = slots_.slot(slots, chunk, Phase::gather, shard);
      for_each_topk_run(shard, chunk, [&](const Run& run) {
        const TopkPeers owner{slot, slot.size(), run.offset_out, 1, run.elements, run.entries_out};
        topk_.decode(run, owner, 1.0f, scale, gradients, 0, streamed);
      });
    }
    return verdict;
  }

  Verdict reduce(int chunk, std::span<const std::byte> slots, int shard, const CallState& call,
                 TensorView out, std::int64_t out_origin) override {
    check_reduce(*plan_, chunk, slots, shard, out, out_origin);
    const Verdict verdict{slots_.check(chunk, Phase::reduce, shard, call.sequence, slots)};
    const float scale = scale_or_one(call.out_scale);
    const bool streamed = is_streamed(out);
    decode_items(layout_.items(chunk, shard), scale, out, out_origin,
                 [&](const WorkItem& item, const Stretch& stretch, simd::DecodeStretch& job) {
                   job.payloads = payloads_of(item, stretch, slots, chunk);
                   job.mean = true;
                 });
    for_each_topk_run(shard, chunk, [&](const Run& run) {
      topk_.decode(run, reduce_peers(chunk, run, slots), one_over_ranks(), scale, out, out_origin,
                   streamed);
    });
    return verdict;
  }

 private:
  float one_over_ranks() const { return 1.0f / static_cast<float>(plan_->ranks()); }

  const CodecSpec& spec_of(const Run& run) const { return plan_->sections()[run.section]; }
  simd::BlockKernels kernels_of(const WorkItem& item) const {
    return simd::block_kernels(spec_of(*item.run));
  }

  template <typename Body>
  void for_each_topk_run(int shard, int chunk, const Body& body) const {
    for (const Run& run : plan_->slot(shard, chunk).runs) {
      if (spec_of(run).codec == Codec::topk) body(run);
    }
  }

  TopkPeers reduce_peers(int chunk, const Run& run, std::span<const std::byte> slots) const {
    return {slots,        plan_->slot_bytes(chunk, Phase::reduce),
            run.offset,   plan_->ranks(),
            run.elements, run.entries};
  }

  /// Where a stretch goes in a slot whose run starts at `offset`.
  simd::EncodeStretch job_of(const WorkItem& item, const Stretch& stretch, std::size_t offset,
                             std::span<std::byte> slot) const {
    simd::EncodeStretch job;
    job.elements = stretch.elements;
    job.scales = slot.data() + offset + stretch.scale_byte;
    job.values = slot.data() + offset + pad16(item.run->scale_bytes) + stretch.value_byte;
    job.non_finite = plan_->settings().non_finite;
    return job;
  }

  /// A stretch in a slot whose run starts at `offset`.
  static simd::Payloads payload_of(const WorkItem& item, const Stretch& stretch, std::size_t offset,
                                   std::span<const std::byte> slot) {
    const std::byte* run = slot.data() + offset;
    return {.scales = run + stretch.scale_byte,
            .values = run + pad16(item.run->scale_bytes) + stretch.value_byte,
            .stride = 0,
            .count = 1};
  }

  /// The same in the N slots of phase reduce.
  simd::Payloads payloads_of(const WorkItem& item, const Stretch& stretch,
                             std::span<const std::byte> slots, int chunk) const {
    simd::Payloads payloads = payload_of(item, stretch, item.run->offset, slots);
    payloads.stride = plan_->slot_bytes(chunk, Phase::reduce);
    payloads.count = plan_->ranks();
    return payloads;
  }

  /// Decodes items, times `scale`, to `out`, whose first element is source element `origin`.
  /// set_payloads(item, stretch, job) says from where.
  template <typename SetPayloads>
  void decode_items(std::span<const WorkItem> items, float scale, const TensorView& out,
                    std::int64_t origin, const SetPayloads& set_payloads) {
    parallel_items(*pool_, items.size(), [&](std::size_t i) {
      const auto kernels = kernels_of(items[i]);
      for (const Stretch& stretch : items[i].stretches) {
        simd::DecodeStretch job;
        set_payloads(items[i], stretch, job);
        job.elements = stretch.elements;
        job.scale = scale;
        job.dtype = out.dtype;
        job.out = static_cast<std::byte*>(out.data) +
                  static_cast<std::size_t>(stretch.source() - origin) * size_of(out.dtype);
        job.streamed = is_streamed(out);
        kernels.decode(job);
      }
      simd::stream_fence();
    });
  }

  const Plan* plan_;
  std::shared_ptr<WorkerPool> pool_;
  HostLayout layout_;
  HostSlots slots_;
  HostTopk topk_;
};

}  // namespace

std::unique_ptr<Coder> make_host_coder(const Plan& plan, std::shared_ptr<WorkerPool> pool) {
  simd::use_configured_target();
  return std::make_unique<HostCoder>(plan, std::move(pool));
}

}  // namespace thinwire::compress
