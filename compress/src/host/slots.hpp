#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "host/layout.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire::compress {

/// What the threads of a verb find out about one slot. Both commute, so that the totals do not
/// depend on who comes first.
struct SlotTotals {
  std::atomic<std::uint64_t> digest{0};
  std::atomic<std::uint32_t> flags{0};

  void reset(std::uint32_t flags_known) {
    digest = 0;
    flags = flags_known;
  }
};

/// Checksums, headers and checks of slots, on all threads. Chunks are independent of each other.
class HostSlots {
 public:
  /// Both must outlive the object.
  HostSlots(const Plan& plan, WorkerPool& pool);

  /// Totals of one of a chunk's N slots; a verb resets those that it uses.
  SlotTotals& totals(int chunk, int index) {
    return totals_[static_cast<std::size_t>(chunk * plan_->ranks() + index)];
  }

  /// Slot `index` of the N slots of a chunk.
  template <typename Byte>
  std::span<Byte> slot(std::span<Byte> slots, int chunk, Phase phase, int index) const {
    const std::size_t bytes = plan_->slot_bytes(chunk, phase);
    return slots.subspan(static_cast<std::size_t>(index) * bytes, bytes);
  }

  /// Checks the N slots of phase reduce for `shard`, or of phase gather (`shard` is not used), topk
  /// runs included. Returns their flags together. Throws FormatError naming the peer.
  std::uint32_t check(int chunk, Phase phase, int shard, std::uint64_t sequence,
                      std::span<const std::byte> slots);

  /// Digest of the scales and of the whole words of the values that an item has written into a run
  /// that starts at `offset`.
  static std::uint64_t digest_item(const WorkItem& item, std::size_t offset,
                                   std::span<const std::byte> slot);

  /// Ends a slot whose items have been written and digested into `totals`, and whose topk runs have
  /// been written: padding, the rest of the checksum, the header.
  void finish(int shard, int chunk, Phase phase, std::uint64_t sequence, SlotTotals& totals,
              std::span<const WorkItem> items, std::span<std::byte> slot) const;

 private:
  void digest_on_all_threads(std::span<const std::byte> slot, std::size_t begin, std::size_t end,
                             SlotTotals& totals) const;
  void check_topk(int chunk, Phase phase, int shard, int peer,
                  std::span<const std::byte> slot) const;

  const Plan* plan_;
  WorkerPool* pool_;
  std::unique_ptr<SlotTotals[]> totals_;  // [chunk * ranks + index]
};

}  // namespace thinwire::compress
