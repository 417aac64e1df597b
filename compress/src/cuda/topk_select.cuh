#pragma once

#include "block_rules.hpp"
#include "cuda/finish.cuh"
#include "cuda/topk_block.cuh"
#include "cuda/topk_entries.cuh"

/// The exact selection of one run, by several thread blocks that meet at barriers.
///
/// A pass before it has left x in memory and a list of candidates over a threshold. Where the
/// threshold misled, the keys are read again from what the pass has left: slower, but the result
/// never depends on it. (Guess, verify, refine: the pattern of TensorRT-LLM's GVR top-k.)
namespace thinwire::compress::cuda {

/// What a selection is told. `Source` says where x stands:
///   read(unit, x): x of a whole unit in the places of Strided, 0 where an element takes no part;
///   left(unit): where the unit's residual goes, null without.
template <typename Source>
class TopkSelection {
 public:
  __device__ TopkSelection(SelectShare& share, const ChunkView& chunk, const TopkRow& row,
                           const TopkShare& blocks, const Source& source, Phase phase,
                           bool zero_non_finite, std::byte* slot)
      : share_{share},
        chunk_{chunk},
        row_{row},
        scratch_{row.scratch},
        blocks_{blocks},
        source_{source},
        entries_{row.entries[static_cast<int>(phase)]},
        parts_{row.elements, entries_},
        run_{slot + row.offset[static_cast<int>(phase)]},
        zero_non_finite_{zero_non_finite},
        some_non_finite_{__ldcg(&row.scratch.control->non_finite) != 0},
        threshold_{__ldcg(&row.scratch.control->threshold)},
        crowded_{__ldcg(&row.scratch.control->crowded)},
        first_unit_{
            static_cast<std::uint32_t>(std::uint64_t{row.units} * blocks.index / blocks.count)},
        last_unit_{static_cast<std::uint32_t>(std::uint64_t{row.units} * (blocks.index + 1) /
                                              blocks.count)} {
    stored_ = scratch_.candidates != nullptr && !some_non_finite_ && crowded_ <= scratch_.room;
  }

  /// Writes the whole run, padding included, and what is left of x where something is sent. All
  /// threads may read the run afterwards. True if a block of positions is not finite.
  __device__ bool write() {
    find_cut();
    count();
    const std::uint32_t total = place();
    write_units();
    write_rest(total);
    barrier();
    return some_non_finite_;
  }

 private:
  /// All thread blocks of the run.
  __device__ void barrier() {
    __syncthreads();
    if (blocks_.count > 1) {
      if (threadIdx.x == 0) {
        ++barriers_;
        fence();
        atomicAdd(&scratch_.control->arrived, 1u);
        const volatile std::uint32_t* arrived = &scratch_.control->arrived;
        while (*arrived < barriers_ * blocks_.count) {
        }
        fence();
      }
      __syncthreads();
    }
  }

  __device__ std::uint32_t warp() const { return threadIdx.x / 32; }
  __device__ std::uint32_t* non_finite(std::int64_t position) const {
    return scratch_.non_finite + position / topk_block;
  }

  /// Reads a unit's x; 0 also in non-finite blocks.
  __device__ void read(const Unit& unit, Tile& x) const {
    source_.read(unit, x);
    if (!some_non_finite_) return;
    for_each<Strided>([&](int row, int column) {
      const int at = Strided::element(row, column);
      if (at < unit.elements && __ldcg(non_finite(position_of(unit) + at)) != 0) {
        x[row][column] = 0.0f;
      }
    });
  }

  /// Calls body(unit, key) for all keys, in any order.
  template <typename Body>
  __device__ void for_each_key(Body body) const {
    if (stored_) {
      const auto use = [&](std::uint32_t place, std::uint32_t bits) {
        const std::uint32_t key = bits & 0x7FFFFFFFu;
        if (key != 0) body(place >> topk_place_bits, key);
      };
      // Segments are filled up with zeros.
      const std::uint64_t of_segments = std::uint64_t{row_.units} * row_.segment;
      const auto* pairs = reinterpret_cast<const uint4*>(scratch_.candidates);
#pragma unroll 4
      for (std::uint64_t i = blocks_.first(); i < of_segments / 2; i += blocks_.stride()) {
        const uint4 raw = __ldg(pairs + i);
        use(raw.x, raw.y);
        use(raw.z, raw.w);
      }
      const auto* list = reinterpret_cast<const uint2*>(scratch_.candidates) + of_segments;
#pragma unroll 4
      for (std::uint64_t i = blocks_.first(); i < crowded_; i += blocks_.stride()) {
        const uint2 raw = __ldg(list + i);
        use(raw.x, raw.y);
      }
      return;
    }
    const auto warps = static_cast<std::uint32_t>(block_warps());
    for (std::uint32_t i = blocks_.index * warps + warp(); i < row_.units;
         i += blocks_.count * warps) {
      Tile x;
      read(find_unit(chunk_, row_, i), x);
      for_each<Strided>([&](int row, int column) {
        const std::uint32_t key = key_of(x[row][column]);
        if (key != 0) body(i, key);
      });
    }
  }

  /// Radix selection from the top digit down.
  __device__ void find_cut() {
    cut_ = {0, entries_};
    bool misled = false;
    int below = 31;
    for (int digit = 0; digit < topk_digits; ++digit) {
      const int width = digit == 0 ? 11 : 10;
      below -= width;
      const std::uint32_t* counts = histogram(digit, digit == 0 && misled, below, width);
      const std::uint64_t keys = narrow_cut(counts);
      if (digit == 0 && stored_ && keys < entries_ && threshold_ != 0) {
        // The threshold was too high: look at everything.
        stored_ = false;
        misled = true;
        below = 31;
        digit = -1;
        continue;
      }
      if (digit == 0 && keys <= entries_) {
        cut_ = {0, 0};
        return;
      }
      cut_.key = cut_.key << width | share_.cut.key;
      cut_.ties = share_.cut.ties;
      __syncthreads();
    }
  }

  /// Counts, by digit, the keys that begin as the cut does.
  __device__ const std::uint32_t* histogram(int digit, bool again, int below, int width) {
    for (int bin = static_cast<int>(threadIdx.x); bin < topk_bins; bin += blockDim.x) {
      share_.counts[bin] = 0;
    }
    __syncthreads();
    for_each_key([&](std::uint32_t, std::uint32_t key) {
      if (key >> (below + width) != cut_.key) return;
      const std::uint32_t bin = key >> below & ((1u << width) - 1);
      if (digit == 0) {
        // Few bins: lanes would wait for each other.
        add_together(&share_.counts[bin], bin);
      } else {
        atomicAdd(&share_.counts[bin], 1u);
      }
    });
    __syncthreads();
    if (blocks_.count == 1) return share_.counts;
    std::uint32_t* counts = scratch_.digits + (again ? topk_digits : digit) * topk_bins;
    for (int bin = static_cast<int>(threadIdx.x); bin < topk_bins; bin += blockDim.x) {
      if (share_.counts[bin] != 0) atomicAdd(counts + bin, share_.counts[bin]);
    }
    barrier();
    return counts;
  }

  /// Adds 1; lanes that come with the same `target` do it at once.
  static __device__ void add_together(std::uint32_t* address, std::uint32_t target) {
    const unsigned same = __match_any_sync(__activemask(), target);
    if (lane_id() == __ffs(static_cast<int>(same)) - 1) {
      atomicAdd(address, static_cast<std::uint32_t>(__popc(same)));
    }
  }

  /// Finds the bin in which the last entry falls, if there are so many; returns the number of
  /// keys. All thread blocks do the same.
  __device__ std::uint64_t narrow_cut(const std::uint32_t* counts) {
    constexpr int per_thread = topk_bins / select_threads;
    std::uint32_t own[per_thread];
    std::uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {
      const std::uint32_t* from = counts + topk_bins - 1 - (per_thread * threadIdx.x + i);
      own[i] = counts == share_.counts ? *from : __ldcg(from);
      sum += own[i];
    }
    std::uint64_t total = 0;
    std::uint64_t above = block_scan(share_, sum, total) - sum;
#pragma unroll
    for (int i = 0; i < per_thread; ++i) {
      if (above < cut_.ties && cut_.ties <= above + own[i]) {
        share_.cut = {topk_bins - 1 - (per_thread * threadIdx.x + i),
                      cut_.ties - static_cast<std::uint32_t>(above)};
      }
      above += own[i];
    }
    __syncthreads();
    return total;
  }

  /// Adds up, by unit, keys over the cut and on it.
  __device__ void count() {
    for_each_key([&](std::uint32_t unit, std::uint32_t key) {
      if (key < cut_.key) return;
      TopkUnit& counts = scratch_.units[unit];
      const bool ties = key == cut_.key;
      add_together(ties ? &counts.ties : &counts.above, unit << 1 | (ties ? 1u : 0u));
    });
    barrier();
  }

  /// above << 32 | ties.
  __device__ std::uint64_t counts_of(std::uint32_t unit) const {
    if (unit >= last_unit_) return 0;
    const uint2 counts = __ldcg(reinterpret_cast<const uint2*>(&scratch_.units[unit].above));
    return std::uint64_t{counts.x} << 32 | counts.y;
  }
  /// Entries among keys of which `counts` are over the cut and on it, if they are the first ones.
  __device__ std::uint32_t taken_of(std::uint64_t counts) const {
    return static_cast<std::uint32_t>(counts >> 32) +
           min(static_cast<std::uint32_t>(counts), cut_.ties);
  }

  /// Gives this thread block's units their first entries and their shares of the ties, lowest
  /// positions first. Returns the number of all entries.
  __device__ std::uint32_t place() {
    std::uint64_t sum = 0;
    for (std::uint32_t unit = first_unit_ + threadIdx.x; unit < last_unit_; unit += blockDim.x) {
      sum += counts_of(unit);
    }
    std::uint64_t own = 0;
    block_scan(share_, sum, own);
    std::uint64_t before = 0;
    std::uint64_t all = own;
    if (blocks_.count > 1) {
      if (threadIdx.x == 0) scratch_.totals[blocks_.index] = own;
      barrier();
      std::uint64_t of_all = 0;
      std::uint64_t of_those_before = 0;
      for (std::uint32_t i = threadIdx.x; i < blocks_.count; i += blockDim.x) {
        const std::uint64_t total = __ldcg(scratch_.totals + i);
        of_all += total;
        if (i < blocks_.index) of_those_before += total;
      }
      block_scan(share_, of_all, all);
      block_scan(share_, of_those_before, before);
    }
    for (std::uint32_t base = first_unit_; base < last_unit_; base += blockDim.x) {
      const std::uint32_t unit = base + threadIdx.x;
      const std::uint64_t counts = counts_of(unit);
      std::uint64_t total = 0;
      const std::uint64_t until = before + block_scan(share_, counts, total);
      if (unit < last_unit_) {
        const std::uint32_t ties_before = static_cast<std::uint32_t>(until - counts);
        const uint2 placed{taken_of(until - counts), min(static_cast<std::uint32_t>(counts),
                                                         cut_.ties - min(ties_before, cut_.ties))};
        __stcg(reinterpret_cast<uint2*>(&scratch_.units[unit].above), placed);
      }
      before += total;
    }
    __syncthreads();
    return taken_of(all);
  }

  __device__ std::uint32_t* first_words() const { return reinterpret_cast<std::uint32_t*>(run_); }
  __device__ std::uint16_t* locals() const {
    return reinterpret_cast<std::uint16_t*>(run_ + parts_.local);
  }
  __device__ std::uint16_t* values() const {
    return reinterpret_cast<std::uint16_t*>(run_ + parts_.value);
  }

  /// How far the writing of a unit has come.
  struct UnitWriter {
    std::int64_t position;
    float* left;
    std::uint32_t entry;
    std::uint32_t ties;   ///< that may still be taken
    int block_start;      ///< index in the unit of the first element of a block of positions
    std::uint32_t early;  ///< entries before it
  };

  /// 32 elements of a unit, in the order of the lanes; x is 0 where there is none.
  __device__ void write_lanes(UnitWriter& to, int index, float x) const {
    const std::uint32_t key = key_of(x);
    const unsigned lower = (1u << lane_id()) - 1;
    const bool ties = key != 0 && key == cut_.key;
    const unsigned all_ties = __ballot_sync(all_lanes, ties);
    const bool taken =
        key > cut_.key || (ties && static_cast<std::uint32_t>(__popc(all_ties & lower)) < to.ties);
    const unsigned all_taken = __ballot_sync(all_lanes, taken);
    const auto early = static_cast<std::uint32_t>(
        __popc(__ballot_sync(all_lanes, taken && index < to.block_start)));
    if (taken) {
      write_entry(to, to.entry + static_cast<std::uint32_t>(__popc(all_taken & lower)),
                  static_cast<std::uint32_t>(index), x);
    }
    to.entry += static_cast<std::uint32_t>(__popc(all_taken));
    to.early += early;
    to.ties -= min(to.ties, static_cast<std::uint32_t>(__popc(all_ties)));
  }

  __device__ TopkUnit state_of(std::uint32_t unit) const {
    union {
      uint4 raw;
      TopkUnit state;
    } loaded{unit < last_unit_ ? __ldcg(reinterpret_cast<const uint4*>(scratch_.units + unit))
                               : uint4{}};
    return loaded.state;
  }

  __device__ const uint2* candidates() const {
    return reinterpret_cast<const uint2*>(scratch_.candidates);
  }

  __device__ UnitWriter writer_of(const Unit& unit, const TopkUnit& state) const {
    const std::int64_t position = position_of(unit);
    const auto start = static_cast<int>(-static_cast<std::uint64_t>(position) & (topk_block - 1));
    return {position, source_.left(unit), state.above, state.ties, start, 0};
  }

  __device__ void write_entry(const UnitWriter& to, std::uint32_t entry, std::uint32_t index,
                              float x) const {
    const std::uint16_t value = bf16_bits(x);
    locals()[entry] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(to.position) + index);
    values()[entry] = value;
    if (to.left != nullptr) to.left[index] = x - from_bf16_bits(value);
  }

  /// first[] of the block of positions that starts in a unit, if one does. By one lane.
  __device__ void write_first(const UnitWriter& to, const Unit& unit, std::uint32_t entry) const {
    if (to.block_start >= unit.elements) return;
    const auto block = static_cast<std::uint32_t>((to.position + to.block_start) / topk_block);
    const bool flagged =
        some_non_finite_ && !zero_non_finite_ && __ldcg(scratch_.non_finite + block) != 0;
    first_words()[block] = (entry + to.early) | (flagged ? topk_non_finite : 0u);
  }

  /// By a warp: a unit whose candidates are many or not known.
  __device__ __noinline__ void write_unit(std::uint32_t index) const {
    const TopkUnit state = state_of(index);
    const Unit unit = find_unit(chunk_, row_, index);
    UnitWriter to = writer_of(unit, state);
    if (stored_) {
      for (std::uint32_t k = 0; k < state.candidates; k += 32) {
        const std::uint32_t at = k + static_cast<std::uint32_t>(lane_id());
        uint2 raw{0, 0};
        if (at < state.candidates) raw = __ldcg(candidates() + state.first + at);
        write_lanes(to, static_cast<int>(raw.x & (unit_elements - 1)), __uint_as_float(raw.y));
      }
    } else {
      Tile x;
      read(unit, x);
      for_each<Strided>([&](int row, int column) {
        write_lanes(to, Strided::element(row, column), x[row][column]);
      });
    }
    if (lane_id() == 0) write_first(to, unit, state.above);
  }

  /// By a lane: a unit whose candidates stand in its segment.
  __device__ void write_unit_alone(std::uint32_t index, const TopkUnit& state) const {
    const Unit unit = find_unit_alone(chunk_, row_, index);
    UnitWriter to = writer_of(unit, state);
    std::uint32_t entry = to.entry;
    const auto write = [&](std::uint32_t place, std::uint32_t bits) {
      const float x = __uint_as_float(bits);
      const std::uint32_t key = key_of(x);
      const bool ties = key == cut_.key;
      if (key == 0 || key < cut_.key || (ties && to.ties == 0)) return;
      if (ties) --to.ties;
      const auto at = static_cast<std::uint32_t>(place & (unit_elements - 1));
      if (static_cast<int>(at) < to.block_start) ++to.early;
      write_entry(to, entry++, at, x);
    };
    const auto* pairs = reinterpret_cast<const uint4*>(candidates() + state.first);
    uint4 ahead = state.candidates > 0 ? __ldg(pairs) : uint4{};
    for (std::uint32_t k = 0; k < state.candidates; k += 2) {
      const uint4 raw = ahead;
      if (k + 2 < state.candidates) ahead = __ldg(++pairs);
      write(raw.x, raw.y);
      write(raw.z, raw.w);
    }
    write_first(to, unit, to.entry);
  }

  __device__ void write_units() const {
    const auto warps = static_cast<std::uint32_t>(block_warps());
    if (!stored_) {
      for (std::uint32_t i = first_unit_ + warp(); i < last_unit_; i += warps) write_unit(i);
      return;
    }
    for (std::uint32_t base = first_unit_ + 32 * warp(); base < last_unit_; base += 32 * warps) {
      const std::uint32_t index = base + static_cast<std::uint32_t>(lane_id());
      const TopkUnit state = state_of(index);
      const bool crowded = state.candidates > row_.segment;
      if (index < last_unit_ && !crowded) write_unit_alone(index, state);
      for (unsigned left = __ballot_sync(all_lanes, crowded); left != 0; left &= left - 1) {
        write_unit(base + static_cast<std::uint32_t>(__ffs(static_cast<int>(left))) - 1);
      }
    }
  }

  /// The end of first[], and zeros where nothing else is written.
  __device__ void write_rest(std::uint32_t total) const {
    if (blocks_.first() == 0) first_words()[parts_.blocks] = total;
    const auto clear = [&](std::size_t from, std::size_t to) {
      for (std::uint64_t at = from + 2 * blocks_.first(); at < to; at += 2 * blocks_.stride()) {
        *reinterpret_cast<std::uint16_t*>(run_ + at) = 0;
      }
    };
    clear(4 * static_cast<std::size_t>(parts_.blocks + 1), parts_.local);
    clear(parts_.local + 2 * std::size_t{total}, parts_.value);
    clear(parts_.value + 2 * std::size_t{total}, parts_.bytes);
  }

  SelectShare& share_;
  const ChunkView& chunk_;
  const TopkRow& row_;
  const TopkScratch scratch_;
  const TopkShare blocks_;
  const Source& source_;
  const std::uint32_t entries_;
  const TopkParts parts_;
  std::byte* const run_;
  const bool zero_non_finite_;
  const bool some_non_finite_;
  const std::uint32_t threshold_;
  const std::uint32_t crowded_;
  const std::uint32_t first_unit_;  ///< of those that this thread block writes
  const std::uint32_t last_unit_;
  bool stored_;  ///< all keys that matter are among the candidates
  std::uint32_t barriers_ = 0;
  TopkCut cut_{};
};

}  // namespace thinwire::compress::cuda
