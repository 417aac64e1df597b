#include "host/slots.hpp"

#include <algorithm>
#include <cstring>

#include "host/parallel.hpp"
#include "run_layout.hpp"
#include "slot_check.hpp"
#include "topk_run.hpp"

namespace thinwire::compress {
namespace {

/// Bytes of a slot that are digested as one work item.
constexpr std::size_t part_bytes = std::size_t{1} << 18;

/// Digest of the bytes [begin, end) of a slot, both whole words after its header.
std::uint64_t digest_part(std::span<const std::byte> slot, std::size_t begin, std::size_t end) {
  return digest(slot.subspan(begin, end - begin), (begin - header_bytes) / 4);
}

constexpr std::size_t round_down4(std::size_t bytes) { return bytes / 4 * 4; }
constexpr std::size_t round_up4(std::size_t bytes) { return (bytes + 3) / 4 * 4; }

}  // namespace

HostSlots::HostSlots(const Plan& plan, WorkerPool& pool)
    : plan_{&plan},
      pool_{&pool},
      totals_{new SlotTotals[static_cast<std::size_t>(plan.chunks() * plan.ranks())]} {}

std::uint32_t HostSlots::check(int chunk, Phase phase, int shard, std::uint64_t sequence,
                               std::span<const std::byte> slots) {
  const int ranks = plan_->ranks();
  const auto shard_of = [&](int peer) { return phase == Phase::reduce ? shard : peer; };
  std::uint32_t flags = 0;
  for (int peer = 0; peer < ranks; ++peer) {
    flags |= check_fields(*plan_, shard_of(peer), chunk, phase, sequence, peer,
                          slot(slots, chunk, phase, peer))
                 .flags;
    totals(chunk, peer).reset(0);
  }
  const std::size_t parts = (plan_->slot_bytes(chunk, phase) + part_bytes - 1) / part_bytes;
  parallel_items(*pool_, parts * static_cast<std::size_t>(ranks), [&](std::size_t i) {
    const auto peer = static_cast<int>(i / parts);
    const std::size_t end =
        header_bytes + payload_length(plan_->slot(shard_of(peer), chunk), phase);
    const std::size_t from = header_bytes + i % parts * part_bytes;
    if (from >= end) return;
    totals(chunk, peer).digest +=
        digest_part(slot(slots, chunk, phase, peer), from, std::min(end, from + part_bytes));
  });
  for (int peer = 0; peer < ranks; ++peer) {
    SlotHeader header;
    std::memcpy(&header, slot(slots, chunk, phase, peer).data(), sizeof header);
    check_checksum(header, totals(chunk, peer).digest, peer);
  }
  parallel_items(*pool_, static_cast<std::size_t>(ranks), [&](std::size_t i) {
    const auto peer = static_cast<int>(i);
    check_topk(chunk, phase, shard_of(peer), peer, slot(slots, chunk, phase, peer));
  });
  return flags;
}

void HostSlots::check_topk(int chunk, Phase phase, int shard, int peer,
                           std::span<const std::byte> slot) const {
  for (const Run& run : plan_->slot(shard, chunk).runs) {
    if (plan_->sections()[run.section].codec != Codec::topk) continue;
    const bool reduce = phase == Phase::reduce;
    TopkRun{slot.subspan(reduce ? run.offset : run.offset_out), run.elements,
            reduce ? run.entries : run.entries_out}
        .check(peer);
  }
}

std::uint64_t HostSlots::digest_item(const WorkItem& item, std::size_t offset,
                                     std::span<const std::byte> slot) {
  const std::size_t values = offset + pad16(item.run->scale_bytes);
  const std::size_t from = round_up4(item.value_bytes[0]);
  const std::size_t to = std::max(from, round_down4(item.value_bytes[1]));
  return digest_part(slot, offset + item.scale_bytes[0], offset + item.scale_bytes[1]) +
         digest_part(slot, values + from, values + to);
}

void HostSlots::digest_on_all_threads(std::span<const std::byte> slot, std::size_t begin,
                                      std::size_t end, SlotTotals& totals) const {
  parallel_items(*pool_, (end - begin + part_bytes - 1) / part_bytes, [&](std::size_t i) {
    const std::size_t from = begin + i * part_bytes;
    totals.digest += digest_part(slot, from, std::min(end, from + part_bytes));
  });
}

void HostSlots::finish(int shard, int chunk, Phase phase, std::uint64_t sequence,
                       SlotTotals& totals, std::span<const WorkItem> items,
                       std::span<std::byte> slot) const {
  const Slot& layout = plan_->slot(shard, chunk);
  const auto zero = [&](std::size_t from, std::size_t to) {
    std::memset(slot.data() + from, 0, to - from);
  };
  const auto add = [&](std::size_t from, std::size_t to) {
    totals.digest += digest_part(slot, from, to);
  };
  for (const Run& run : layout.runs) {
    const std::size_t offset = phase == Phase::reduce ? run.offset : run.offset_out;
    if (plan_->sections()[run.section].codec == Codec::topk) {
      const TopkParts parts{run.elements, phase == Phase::reduce ? run.entries : run.entries_out};
      digest_on_all_threads(slot, offset, offset + parts.bytes, totals);
      continue;
    }
    const std::size_t values = offset + pad16(run.scale_bytes);
    const std::size_t end = values + pad16(run.value_bytes);
    zero(offset + run.scale_bytes, values);
    zero(values + run.value_bytes, end);
    add(offset + run.scale_bytes, values);
    // Words that two items share belong to none of them.
    std::size_t done = values;
    for (; !items.empty() && items.front().run == &run; items = items.subspan(1)) {
      const std::size_t from = values + round_up4(items.front().value_bytes[0]);
      const std::size_t to = values + round_down4(items.front().value_bytes[1]);
      if (from >= to) continue;
      add(done, from);
      done = to;
    }
    add(done, end);
  }
  zero(header_bytes + payload_length(layout, phase), slot.size());
  const SlotHeader header =
      make_header(*plan_, shard, chunk, phase, sequence, totals.flags, totals.digest);
  std::memcpy(slot.data(), &header, sizeof header);
}

}  // namespace thinwire::compress
