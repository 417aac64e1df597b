#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include "coder_checks.hpp"
#include "fp_environment.hpp"
#include "host_layout.hpp"
#include "run_layout.hpp"
#include "simd/kernels.hpp"
#include "slot_check.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

/// Elements that pass through the L1 at once on the way back; a multiple of every block.
constexpr std::int64_t tile_elements = 2048;
/// Bytes of a slot that are digested as one work item when it is checked.
constexpr std::size_t check_bytes = std::size_t{1} << 18;
/// From this size on an array that is only written goes past the caches.
constexpr std::size_t stream_bytes = std::size_t{1} << 20;

/// What the threads of a verb find out about one slot. Both operations commute, so the totals do
/// not depend on who comes first.
struct SlotTotals {
  std::atomic<std::uint64_t> digest{0};
  std::atomic<std::uint32_t> flags{0};

  void reset() {
    digest = 0;
    flags = 0;
  }
};

/// Whether streamed stores may write elements from `at` on of a residual.
simd::Memory residual_memory(const float* residual, bool streamed) {
  if (residual == nullptr) return simd::Memory::none;
  const bool aligned = reinterpret_cast<std::uintptr_t>(residual) % 64 == 0;
  return streamed && aligned ? simd::Memory::streamed : simd::Memory::cached;
}

/// Digest of the bytes [begin, end) of a slot, both multiples of 4 from the start of its payload.
std::uint64_t digest_part(std::span<const std::byte> slot, std::size_t begin, std::size_t end) {
  return digest(slot.subspan(begin, end - begin), (begin - header_bytes) / 4);
}

constexpr std::size_t round_down4(std::size_t bytes) { return bytes / 4 * 4; }
constexpr std::size_t round_up4(std::size_t bytes) { return (bytes + 3) / 4 * 4; }

class HostCoder final : public Coder {
 public:
  HostCoder(const Plan& plan, std::shared_ptr<WorkerPool> pool)
      : plan_{&plan},
        pool_{std::move(pool)},
        layout_{plan},
        totals_{new SlotTotals[static_cast<std::size_t>(plan.chunks() * plan.ranks())]} {}

  void encode(int chunk, ConstTensorView gradients, State& state, const CallState& call,
              std::span<std::byte> slots) override {
    check_encode(*plan_, chunk, gradients, state, slots);
    const float inv_scale = call.inv_scale != nullptr ? *call.inv_scale : 1.0f;
    const bool streamed = plan_->settings().commit == Commit::double_buffered &&
                          plan_->residual_elements() * sizeof(float) >= stream_bytes;
    const float* residual = state.worker_committed();
    float* residual_next = state.worker_next();
    reset_totals(chunk);
    const auto items = layout_.items(chunk);
    run_items(items.size(), [&](std::size_t i) {
      const WorkItem& item = items[i];
      const auto kernels = kernels_of(item);
      const auto slot = slot_of(slots, chunk, Phase::reduce, item.shard);
      SlotTotals& totals = totals_of(chunk, item.shard);
      for (const Stretch& stretch : item.stretches) {
        const auto* source = static_cast<const std::byte*>(gradients.data) +
                             static_cast<std::size_t>(stretch.source()) * size_of(gradients.dtype);
        simd::EncodeStretch job = job_of(item, stretch, item.run->offset, slot);
        job.source = source;
        job.dtype = gradients.dtype;
        job.inv_scale = inv_scale;
        if (stretch.piece->residual >= 0) {
          const std::int64_t at = stretch.piece->residual + stretch.offset;
          job.residual = residual + at;
          job.residual_next = residual_next + at;
          job.memory = residual_memory(job.residual_next, streamed);
        }
        totals.flags |= kernels.encode(job);
      }
      totals.digest += digest_item(item, item.run->offset, slot);
      simd::stream_fence();
    });
    for (int shard = 0; shard < plan_->ranks(); ++shard) {
      finish_slot(shard, chunk, Phase::reduce, call.sequence, totals_of(chunk, shard),
                  layout_.items(chunk, shard), slot_of(slots, chunk, Phase::reduce, shard));
    }
    state.mark_worker_written();
  }

  void reduce_encode(int chunk, std::span<const std::byte> slots, State& state,
                     const CallState& call, std::span<std::byte> slot_out) override {
    check_reduce_encode(*plan_, chunk, slots, state, slot_out);
    const int shard = state.shard();
    const std::uint32_t flags_seen =
        check_slots(chunk, Phase::reduce, call.sequence, slots, [&](int) { return shard; });
    const bool streamed =
        static_cast<std::size_t>(plan_->server_elements(shard)) * sizeof(float) >= stream_bytes;
    const float* residual = state.server_committed();
    float* residual_next = state.server_next();
    SlotTotals& totals = totals_of(chunk, 0);
    totals.reset();
    totals.flags = flags_seen;
    const auto items = layout_.items(chunk, shard);
    run_items(items.size(), [&](std::size_t i) {
      const WorkItem& item = items[i];
      const auto kernels = kernels_of(item);
      alignas(64) float mean[tile_elements];
      for (const Stretch& stretch : item.stretches) {
        for_each_tile(item, stretch, [&](const Stretch& tile) {
          average(chunk, item, tile, slots, mean);
          simd::EncodeStretch job = job_of(item, tile, item.run->offset_out, slot_out);
          job.source = mean;
          if (tile.piece->server >= 0) {
            const std::int64_t at = tile.piece->server + tile.offset;
            job.residual = residual + at;
            job.residual_next = residual_next + at;
            job.memory = residual_memory(job.residual_next, streamed);
          }
          totals.flags |= kernels.encode(job);
        });
      }
      totals.digest += digest_item(item, item.run->offset_out, slot_out);
      simd::stream_fence();
    });
    finish_slot(shard, chunk, Phase::gather, call.sequence, totals, items, slot_out);
    state.mark_server_written();
  }

  Verdict decode(int chunk, std::span<const std::byte> slots, const CallState& call,
                 TensorView gradients) override {
    check_decode(*plan_, chunk, slots, gradients);
    const std::uint32_t flags =
        check_slots(chunk, Phase::gather, call.sequence, slots, [](int peer) { return peer; });
    const float out_scale = call.out_scale != nullptr ? *call.out_scale : 1.0f;
    const bool streamed = gradients.bytes() >= stream_bytes;
    const auto items = layout_.items(chunk);
    run_items(items.size(), [&](std::size_t i) {
      const WorkItem& item = items[i];
      const auto slot = slot_of(slots, chunk, Phase::gather, item.shard);
      alignas(64) float values[tile_elements];
      for (const Stretch& stretch : item.stretches) {
        for_each_tile(item, stretch, [&](const Stretch& tile) {
          decode_tile(item, tile, item.run->offset_out, slot, false, values);
          write(values, tile, out_scale, gradients, 0, streamed);
        });
      }
      simd::stream_fence();
    });
    return {flags};
  }

  Verdict reduce(int chunk, std::span<const std::byte> slots, int shard, const CallState& call,
                 TensorView out, std::int64_t out_origin) override {
    check_reduce(*plan_, chunk, slots, shard, out, out_origin);
    const std::uint32_t flags =
        check_slots(chunk, Phase::reduce, call.sequence, slots, [&](int) { return shard; });
    const float out_scale = call.out_scale != nullptr ? *call.out_scale : 1.0f;
    const bool streamed = out.bytes() >= stream_bytes;
    const auto items = layout_.items(chunk, shard);
    run_items(items.size(), [&](std::size_t i) {
      alignas(64) float mean[tile_elements];
      for (const Stretch& stretch : items[i].stretches) {
        for_each_tile(items[i], stretch, [&](const Stretch& tile) {
          average(chunk, items[i], tile, slots, mean);
          write(mean, tile, out_scale, out, out_origin, streamed);
        });
      }
      simd::stream_fence();
    });
    return {flags};
  }

 private:
  template <typename Body>
  void run_items(std::size_t count, const Body& body) {
    pool_->parallel_for(static_cast<std::int64_t>(count), [&body](std::int64_t i) {
      const FpEnvironment environment;
      body(static_cast<std::size_t>(i));
    });
  }

  const CodecSpec& spec_of(const Run& run) const { return plan_->sections()[run.section]; }
  simd::BlockKernels kernels_of(const WorkItem& item) const {
    return simd::block_kernels(spec_of(*item.run));
  }

  SlotTotals& totals_of(int chunk, int index) {
    return totals_[static_cast<std::size_t>(chunk * plan_->ranks() + index)];
  }
  void reset_totals(int chunk) {
    for (int i = 0; i < plan_->ranks(); ++i) totals_of(chunk, i).reset();
  }

  /// The slot at `index` of the N slots of a chunk.
  template <typename Byte>
  std::span<Byte> slot_of(std::span<Byte> slots, int chunk, Phase phase, int index) const {
    const std::size_t bytes = plan_->slot_bytes(chunk, phase);
    return slots.subspan(static_cast<std::size_t>(index) * bytes, bytes);
  }

  /// Checks N slots, of which slot i is about shard_of(i), before a byte of them is used. Returns
  /// their flags together.
  template <typename ShardOf>
  std::uint32_t check_slots(int chunk, Phase phase, std::uint64_t sequence,
                            std::span<const std::byte> slots, ShardOf shard_of) {
    const int ranks = plan_->ranks();
    std::uint32_t flags = 0;
    for (int peer = 0; peer < ranks; ++peer) {
      flags |= check_fields(*plan_, shard_of(peer), chunk, phase, sequence, peer,
                            slot_of(slots, chunk, phase, peer))
                   .flags;
    }
    reset_totals(chunk);
    const std::size_t parts = (plan_->slot_bytes(chunk, phase) + check_bytes - 1) / check_bytes;
    run_items(parts * static_cast<std::size_t>(ranks), [&](std::size_t i) {
      const auto peer = static_cast<int>(i / parts);
      const std::size_t end =
          header_bytes + payload_length(plan_->slot(shard_of(peer), chunk), phase);
      const std::size_t from = header_bytes + i % parts * check_bytes;
      if (from >= end) return;
      totals_of(chunk, peer).digest +=
          digest_part(slot_of(slots, chunk, phase, peer), from, std::min(end, from + check_bytes));
    });
    for (int peer = 0; peer < ranks; ++peer) {
      SlotHeader header;
      std::memcpy(&header, slot_of(slots, chunk, phase, peer).data(), sizeof header);
      check_checksum(header, totals_of(chunk, peer).digest, peer);
    }
    return flags;
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

  template <typename Body>
  void for_each_tile(const WorkItem& item, const Stretch& stretch, const Body& body) const {
    const Codec codec = spec_of(*item.run).codec;
    for (std::int64_t from = 0; from < stretch.elements; from += tile_elements) {
      Stretch tile = stretch;
      tile.offset += from;
      tile.elements = std::min(tile_elements, stretch.elements - from);
      tile.scale_byte += scale_bytes(codec, from / block_elements(codec));
      tile.value_byte += value_bytes(codec, from);
      body(tile);
    }
  }

  void decode_tile(const WorkItem& item, const Stretch& tile, std::size_t offset,
                   std::span<const std::byte> slot, bool add, float* out) const {
    const std::byte* values = slot.data() + offset + pad16(item.run->scale_bytes);
    kernels_of(item).decode({.scales = slot.data() + offset + tile.scale_byte,
                             .values = values + tile.value_byte,
                             .elements = tile.elements,
                             .out = out,
                             .add = add});
  }

  /// The mean of a tile over the N slots: from +0, in rank order.
  void average(int chunk, const WorkItem& item, const Stretch& tile,
               std::span<const std::byte> slots, float* mean) const {
    std::fill_n(mean, (tile.elements + group_elements - 1) / group_elements * group_elements, 0.0f);
    for (int peer = 0; peer < plan_->ranks(); ++peer) {
      decode_tile(item, tile, item.run->offset, slot_of(slots, chunk, Phase::reduce, peer), true,
                  mean);
    }
    simd::scale_in_place(mean, tile.elements, 1.0f / static_cast<float>(plan_->ranks()));
  }

  static void write(const float* values, const Stretch& tile, float scale, TensorView out,
                    std::int64_t origin, bool streamed) {
    const auto at = static_cast<std::size_t>(tile.source() - origin) * size_of(out.dtype);
    simd::write_scaled(values, tile.elements, scale, out.dtype,
                       static_cast<std::byte*>(out.data) + at, streamed);
  }

  /// Digest of the scales and of the whole words of the values that an item has written.
  static std::uint64_t digest_item(const WorkItem& item, std::size_t offset,
                                   std::span<const std::byte> slot) {
    const std::size_t values = offset + pad16(item.run->scale_bytes);
    const std::size_t from = round_up4(item.value_bytes[0]);
    const std::size_t to = std::max(from, round_down4(item.value_bytes[1]));
    return digest_part(slot, offset + item.scale_bytes[0], offset + item.scale_bytes[1]) +
           digest_part(slot, values + from, values + to);
  }

  /// Writes header and padding, and digests what no item could: padding, and the words that two
  /// items share.
  void finish_slot(int shard, int chunk, Phase phase, std::uint64_t sequence, SlotTotals& totals,
                   std::span<const WorkItem> items, std::span<std::byte> slot) const {
    const Slot& layout = plan_->slot(shard, chunk);
    std::uint64_t sum = totals.digest;
    const auto zero = [&](std::size_t from, std::size_t to) {
      std::memset(slot.data() + from, 0, to - from);
    };
    for (const Run& run : layout.runs) {
      const std::size_t offset = phase == Phase::reduce ? run.offset : run.offset_out;
      const std::size_t values = offset + pad16(run.scale_bytes);
      const std::size_t end = values + pad16(run.value_bytes);
      zero(offset + run.scale_bytes, values);
      zero(values + run.value_bytes, end);
      sum += digest_part(slot, offset + run.scale_bytes, values);
      std::size_t done = values;
      for (; !items.empty() && items.front().run == &run; items = items.subspan(1)) {
        const std::size_t from = values + round_up4(items.front().value_bytes[0]);
        const std::size_t to = values + round_down4(items.front().value_bytes[1]);
        if (from >= to) continue;
        sum += digest_part(slot, done, from);
        done = to;
      }
      sum += digest_part(slot, done, end);
    }
    zero(header_bytes + payload_length(layout, phase), slot.size());
    const SlotHeader header = make_header(*plan_, shard, chunk, phase, sequence, totals.flags, sum);
    std::memcpy(slot.data(), &header, sizeof header);
  }

  const Plan* plan_;
  std::shared_ptr<WorkerPool> pool_;
  HostLayout layout_;
  std::unique_ptr<SlotTotals[]> totals_;  // [chunk * ranks + shard or peer]
};

}  // namespace

std::unique_ptr<Coder> make_host_coder(const Plan& plan, std::shared_ptr<WorkerPool> pool) {
  simd::use_configured_target();
  const bool has_topk = std::any_of(plan.sections().begin(), plan.sections().end(),
                                    [](const auto& spec) { return spec.codec == Codec::topk; });
  if (has_topk) return make_reference_coder(plan);
  return std::make_unique<HostCoder>(plan, std::move(pool));
}

}  // namespace thinwire::compress
