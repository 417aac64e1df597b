#pragma once

#include <cmath>

#include "cuda/finish.cuh"
#include "cuda/launch.hpp"
#include "cuda/topk_block.cuh"
#include "cuda/unit.cuh"
#include "run_layout.hpp"

/// What peers sent for a topk run: reads only inside the run, whatever its bytes say.
namespace thinwire::compress::cuda {

/// How find_unit and TileWalk see topk: Unit::scale_byte is the position of the first element.
struct TopkWalk {
  static constexpr int blocks = unit_elements / 4;
  static constexpr std::uint64_t value_bytes = 0;
  static constexpr std::uint64_t value_alignment = 1;
};
__device__ inline std::int64_t position_of(const Unit& unit) {
  return static_cast<std::int64_t>(unit.scale_byte);
}

/// One peer's run.
class TopkEntries {
 public:
  __device__ TopkEntries(const TopkRow& row, Phase phase, const std::byte* slot)
      : elements_{row.elements}, capacity_{row.entries[static_cast<int>(phase)]} {
    const TopkParts parts{elements_, capacity_};
    const std::byte* run = slot + row.offset[static_cast<int>(phase)];
    blocks_ = static_cast<std::uint32_t>(parts.blocks);
    first_ = reinterpret_cast<const std::uint32_t*>(run);
    local_ = reinterpret_cast<const std::uint16_t*>(run + parts.local);
    value_ = reinterpret_cast<const std::uint16_t*>(run + parts.value);
  }

  __device__ std::uint32_t blocks() const { return blocks_; }
  __device__ std::uint32_t capacity() const { return capacity_; }
  __device__ std::uint32_t word(std::uint32_t block) const { return __ldg(first_ + block); }
  __device__ bool non_finite(std::uint32_t block) const {
    return (word(block) & topk_non_finite) != 0;
  }
  /// Index of the first entry of a block, or of the end if block == blocks().
  __device__ std::uint32_t first(std::uint32_t block) const {
    return min(word(block) & ~topk_non_finite, capacity_);
  }
  __device__ std::uint32_t local(std::uint32_t entry) const { return __ldg(local_ + entry); }
  __device__ float value(std::uint32_t entry) const {
    return from_bf16_bits(__ldg(value_ + entry));
  }
  __device__ std::int64_t block_elements(std::uint32_t block) const {
    return min(topk_block, elements_ - block * topk_block);
  }

  /// Index of the first entry of a block at `local` or behind. By a warp: 32 probes at a time.
  __device__ std::uint32_t lower_bound(std::uint32_t block, std::uint32_t local_at_least) const {
    std::uint32_t from = first(block);
    std::uint32_t count = max(first(block + 1), from) - from;
    while (count > 0) {
      const std::uint32_t step = (count + 31) / 32;
      const std::uint32_t probe = static_cast<std::uint32_t>(lane_id()) * step;
      const bool before = probe < count && local(from + probe) < local_at_least;
      const auto passed = static_cast<std::uint32_t>(__popc(__ballot_sync(all_lanes, before)));
      if (passed == 0) break;
      from += (passed - 1) * step + 1;
      count = min(step - 1, count - (passed - 1) * step - 1);
    }
    return from;
  }

  /// What is sent for a position; NaN in a block that is not finite. Each lane for itself.
  __device__ float value_at(std::int64_t position) const {
    const auto block = static_cast<std::uint32_t>(position / topk_block);
    if (non_finite(block)) return __uint_as_float(canonical_nan_f32);
    const auto wanted = static_cast<std::uint32_t>(position % topk_block);
    std::uint32_t from = first(block);
    const std::uint32_t end = first(block + 1);
    for (std::uint32_t to = end; from < to;) {
      const std::uint32_t middle = from + (to - from) / 2;
      if (local(middle) < wanted) {
        from = middle + 1;
      } else {
        to = middle;
      }
    }
    return from < end && local(from) == wanted ? value(from) : 0.0f;
  }

  /// Calls body(index, value) for the entries at [position, position + elements), an index counting
  /// from `position`. By a warp: every lane takes other entries.
  template <typename Body>
  __device__ void for_each(std::int64_t position, int elements, Body body) const {
    const std::int64_t end = position + elements;
    for (std::int64_t at = position; at < end;) {
      const auto block = static_cast<std::uint32_t>(at / topk_block);
      const std::int64_t base = block * topk_block;
      const std::int64_t stop = min(end, base + topk_block);
      const auto low = static_cast<std::uint32_t>(at - base);
      const auto high = static_cast<std::uint32_t>(stop - base);
      const std::uint32_t last = first(block + 1);
      std::uint32_t entry = lower_bound(block, low) + static_cast<std::uint32_t>(lane_id());
      for (bool inside = true; __all_sync(all_lanes, inside); entry += 32) {
        std::uint32_t at_local = high;
        if (entry < last) at_local = local(entry);
        inside = at_local >= low && at_local < high;
        if (inside) body(static_cast<int>(base - position + at_local), value(entry));
      }
      at = stop;
    }
  }

  /// Entries before a position; at most that of the end. By a warp.
  __device__ std::uint32_t entries_before(std::int64_t position) const {
    const auto block = static_cast<std::uint32_t>(position / topk_block);
    if (block >= blocks_) return first(blocks_);
    return lower_bound(block, static_cast<std::uint32_t>(position % topk_block));
  }

 private:
  std::int64_t elements_;
  std::uint32_t capacity_;
  std::uint32_t blocks_;
  const std::uint32_t* first_;
  const std::uint16_t* local_;
  const std::uint16_t* value_;
};

/// sums[i] = the sum over the peers from +0, in their order, at position + i; NaN where a peer's
/// block is not finite. By a warp; `sums` is its shared memory.
__device__ inline void sum_entries(const TopkRow& row, Phase phase, const Inputs& inputs,
                                   std::int64_t position, int elements, float* sums) {
  for (int i = lane_id(); i < unit_elements; i += 32) sums[i] = 0.0f;
  __syncwarp();
  for (int peer = 0; peer < inputs.ranks; ++peer) {
    const TopkEntries run{row, phase, inputs.slots + peer * inputs.slot_bytes};
    const auto first = static_cast<std::uint32_t>(position / topk_block);
    const auto last = static_cast<std::uint32_t>((position + elements - 1) / topk_block);
    for (std::uint32_t block = first; block <= last; ++block) {
      if (!run.non_finite(block)) continue;
      const std::int64_t from = max(block * topk_block, position) - position;
      const std::int64_t to = min((block + 1) * topk_block, position + elements) - position;
      for (std::int64_t i = from + lane_id(); i < to; i += 32) {
        sums[i] += __uint_as_float(canonical_nan_f32);
      }
    }
    __syncwarp();
    run.for_each(position, elements, [&](int index, float value) { sums[index] += value; });
    __syncwarp();
  }
}

/// A unit's sums in a lane's places.
template <typename Map>
__device__ __forceinline__ void read_sums(const float* sums, Tile& values) {
  for_each<Map>(
      [&](int row, int column) { values[row][column] = sums[Map::element(row, column)]; });
}

/// Digest of a share of a run's words.
__device__ inline std::uint64_t digest_run(const TopkRow& row, Phase phase, const std::byte* slot,
                                           const TopkShare& share) {
  const std::uint64_t offset = row.offset[static_cast<int>(phase)];
  const TopkParts parts{row.elements, row.entries[static_cast<int>(phase)]};
  const auto* words = reinterpret_cast<const std::uint32_t*>(slot + offset);
  const std::uint64_t index = word_index(offset);
  std::uint64_t digest = 0;
#pragma unroll 4
  for (std::uint64_t i = share.first(); i < parts.bytes / 4; i += share.stride()) {
    digest += digest_word(__ldcg(words + i), index + i);
  }
  return digest;
}

/// Refuses what a peer sent; the first to find something tells.
__device__ inline void refuse_entries(const VerbFrame& frame, unsigned place, int peer,
                                      std::uint64_t expected, std::uint64_t got) {
  if ((atomicOr(frame.gathered.flags + place, flag_refused) & flag_refused) != 0) return;
  record_error(frame.errors, {.sequence = frame.step->sequence,
                              .code = static_cast<std::uint32_t>(SlotError::topk_entries),
                              .peer = peer,
                              .expected = expected,
                              .got = got});
}

/// Checks a share of a peer's run as docs/wire-format.md, section 11 says.
__device__ inline void check_entries(const VerbFrame& frame, const TopkRow& row, Phase phase,
                                     const std::byte* slot, int peer, unsigned place,
                                     const TopkShare& share) {
  const TopkEntries run{row, phase, slot};
  const auto require = [&](bool good, std::uint64_t expected, std::uint64_t got) {
    if (!good) refuse_entries(frame, place, peer, expected, got);
  };
  for (std::uint64_t i = share.first(); i < run.blocks(); i += share.stride()) {
    const auto block = static_cast<std::uint32_t>(i);
    const std::uint32_t from = run.word(block) & ~topk_non_finite;
    const std::uint32_t next = run.word(block + 1);
    const std::uint32_t to = block + 1 < run.blocks() ? next & ~topk_non_finite : next;
    require(block != 0 || from == 0, 0, from);
    require(from <= to, from, to);
    require(to <= run.capacity(), run.capacity(), to);
    require(!run.non_finite(block) || from == to, from, to);
  }
  const std::uint32_t entries = run.first(run.blocks());
  const std::uint32_t last_block = run.first(run.blocks() - 1);
  const std::int64_t last_elements = run.block_elements(run.blocks() - 1);
  for (std::uint64_t i = share.first(); i < entries; i += share.stride()) {
    const auto entry = static_cast<std::uint32_t>(i);
    const std::uint32_t local = run.local(entry);
    require(entry < last_block || local < last_elements, last_elements, local);
    if (entry == 0 || run.local(entry - 1) < local) continue;
    // It must be the first of its block: is there one that starts with it?
    std::uint32_t from = 0;
    std::uint32_t to = run.blocks();
    while (from < to) {
      const std::uint32_t middle = (from + to) / 2;
      if (run.first(middle) < entry) {
        from = middle + 1;
      } else {
        to = middle;
      }
    }
    require(run.first(from) == entry, run.local(entry - 1) + 1ull, local);
  }
}

/// The unit of a run by its index in it. Each lane for itself.
__device__ inline Unit find_unit_alone(const ChunkView& chunk, const TopkRow& row,
                                       std::uint32_t index) {
  const PieceRow* pieces = chunk.pieces + row.first_piece;
  const std::uint32_t wanted = row.first_unit + index;
  std::uint32_t low = 0;
  for (std::uint32_t high = row.pieces; high - low > 1;) {
    const std::uint32_t middle = (low + high) / 2;
    if (pieces[middle].first_unit <= wanted) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return unit_of<TopkWalk>(pieces[low], row.first_piece + low, wanted);
}

/// The same by a warp.
__device__ inline Unit find_unit(const ChunkView& chunk, const TopkRow& row, std::uint32_t index) {
  const PieceRow* pieces = chunk.pieces + row.first_piece;
  const std::uint32_t wanted = row.first_unit + index;
  std::uint32_t at = 0;
  for (std::uint32_t count = row.pieces; count > 1;) {
    const std::uint32_t step = (count + 31) / 32;
    const std::uint32_t probe = static_cast<std::uint32_t>(lane_id()) * step;
    const bool started = probe < count && pieces[at + probe].first_unit <= wanted;
    const auto passed = static_cast<std::uint32_t>(__popc(__ballot_sync(all_lanes, started))) - 1;
    at += passed * step;
    count = min(step, count - passed * step);
  }
  return unit_of<TopkWalk>(pieces[at], row.first_piece + at, wanted);
}

}  // namespace thinwire::compress::cuda
