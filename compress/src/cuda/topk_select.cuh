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
    stored_ = !some_non_finite_ && crowded_ <= scratch_.room;
  }

  /// Writes the whole run, padding included, and what is left of x where something is sent. All
  /// threads may read the run afterwards. True if a block of positions is not finite.
  __device__ bool write() {
    if (!stored_) restore();
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

  /// Puts x back where the scan left what remains of a candidate. The list of a unit that found no
  /// room does not exist, and nothing was taken from its x; NaN and Inf never stand in a residual.
  __device__ void restore() {
    const auto warps = static_cast<std::uint32_t>(block_warps());
    for (std::uint32_t i = first_unit_ + warp(); i < last_unit_; i += warps) {
      const TopkUnit state = state_of(i);
      float* left = source_.left(find_unit(chunk_, row_, i));
      if (left == nullptr || state.first == topk_no_room) continue;
      for (std::uint32_t k = static_cast<std::uint32_t>(lane_id()); k < state.candidates; k += 32) {
        const uint2 raw = __ldcg(candidates() + state.first + k);
        const float x = __uint_as_float(raw.y);
        if (key_of(x) < overflow_bits(Codec::none)) left[raw.x & (unit_elements - 1)] = x;
      }
    }
    barrier();
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

  /// Calls body(key) for all keys, in any order.
  template <typename Body>
  __device__ void for_each_key(Body body) const {
    if (stored_) {
      const auto use = [&](std::uint32_t bits) {
        const std::uint32_t key = bits & 0x7FFFFFFFu;
        if (key != 0) body(key);
      };
      // Segments are filled up with zeros.
      const std::uint64_t of_segments = std::uint64_t{row_.units} * row_.segment;
      const auto* pairs = reinterpret_cast<const uint4*>(scratch_.candidates);
#pragma unroll 4
      for (std::uint64_t i = blocks_.first(); i < of_segments / 2; i += blocks_.stride()) {
        const uint4 raw = __ldg(pairs + i);
        use(raw.y);
        use(raw.w);
      }
      const auto* list = reinterpret_cast<const uint2*>(scratch_.candidates) + of_segments;
#pragma unroll 4
      for (std::uint64_t i = blocks_.first(); i < crowded_; i += blocks_.stride()) {
        use(__ldg(list + i).y);
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
        if (key != 0) body(key);
      });
    }
  }

  /// Radix selection from the top digit down.
  __device__ void find_cut() {
    if (stored_ && threshold_ != 0 && find_cut_near()) return;
    cut_ = {0, entries_};
    bool misled = false;
    int below = 31;
    for (int digit = 0; digit < topk_digits; ++digit) {
      const int width = digit == 0 ? 11 : 10;
      below -= width;
      const std::uint32_t mask = (1u << width) - 1;
      const std::uint64_t keys =
          narrow_cut(histogram(digit == 0 && misled ? topk_digits : digit, [&](std::uint32_t key) {
            return key >> (below + width) == cut_.key ? key >> below & mask : no_bin;
          }));
      if (digit == 0 && stored_ && keys < entries_ && threshold_ != 0) {
        // The threshold was too high: look at everything.
        stored_ = false;
        restore();
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

  /// The same in two digits, if the cut is not far above the threshold.
  __device__ bool find_cut_near() {
    constexpr int width = 11;
    cut_ = {0, entries_};
    const std::uint64_t keys = narrow_cut(histogram(topk_digits + 1, [&](std::uint32_t key) {
      return min(key - threshold_ >> width, topk_bins - 1u);
    }));
    if (keys < entries_) return false;
    if (keys == entries_) {
      cut_ = {0, 0};
      return true;
    }
    const TopkCut near = share_.cut;
    __syncthreads();
    if (near.key == topk_bins - 1) return false;
    cut_.ties = near.ties;
    narrow_cut(histogram(topk_digits + 2, [&](std::uint32_t key) {
      const std::uint32_t above = key - threshold_;
      return above >> width == near.key ? above & ((1u << width) - 1) : no_bin;
    }));
    cut_ = {threshold_ + (near.key << width | share_.cut.key), share_.cut.ties};
    __syncthreads();
    return true;
  }

  static constexpr std::uint32_t no_bin = ~0u;

  /// Counts the keys by bin_of(key), in place `look` of scratch.
  template <typename BinOf>
  __device__ const std::uint32_t* histogram(int look, BinOf bin_of) {
    for (int bin = static_cast<int>(threadIdx.x); bin < topk_bins; bin += blockDim.x) {
      share_.counts[bin] = 0;
    }
    __syncthreads();
    for_each_key([&](std::uint32_t key) {
      const std::uint32_t bin = bin_of(key);
      if (bin != no_bin) atomicAdd(&share_.counts[bin], 1u);
    });
    __syncthreads();
    if (blocks_.count == 1) return share_.counts;
    std::uint32_t* counts = scratch_.digits + look * topk_bins;
    for (int bin = static_cast<int>(threadIdx.x); bin < topk_bins; bin += blockDim.x) {
      if (share_.counts[bin] != 0) atomicAdd(counts + bin, share_.counts[bin]);
    }
    barrier();
    return counts;
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

  /// Lists that a warp loads before it looks at them.
  static constexpr int lists_at_once = 4;

  /// Units that a warp walks at once, a lane each: so many that all warps have some.
  __device__ std::uint32_t units_of_warp() const {
    const auto warps = static_cast<std::uint32_t>(block_warps());
    const std::uint32_t each = (last_unit_ - first_unit_ + warps - 1) / warps;
    return min(32u, (each + lists_at_once - 1) / lists_at_once * lists_at_once);
  }
  /// The lane's of those from `base` on; last_unit_ if it has none.
  __device__ std::uint32_t unit_of_lane(std::uint32_t base) const {
    const auto lane = static_cast<std::uint32_t>(lane_id());
    return lane < units_of_warp() ? min(base + lane, last_unit_) : last_unit_;
  }

  /// Calls body(j, raw, valid) for the candidates of units base + j, j < units_of_warp(), that have
  /// at most as many as a warp has lanes: a lane each, in order. `state` is that of unit base +
  /// lane.
  template <typename Body>
  __device__ void for_each_list(const TopkUnit& state, Body body) const {
#pragma unroll 1
    for (std::uint32_t first = 0; first < units_of_warp(); first += lists_at_once) {
      uint2 raws[lists_at_once];
      bool valid[lists_at_once];
#pragma unroll
      for (int i = 0; i < lists_at_once; ++i) {
        const std::uint32_t from = __shfl_sync(all_lanes, state.first, first + i);
        const std::uint32_t count = __shfl_sync(all_lanes, state.candidates, first + i);
        valid[i] = static_cast<std::uint32_t>(lane_id()) < count && count <= 32;
        raws[i] = valid[i] ? __ldcg(candidates() + from + lane_id()) : uint2{0, 0};
      }
#pragma unroll
      for (int i = 0; i < lists_at_once; ++i) body(static_cast<int>(first) + i, raws[i], valid[i]);
    }
  }

  /// Adds up, by unit, keys over the cut and on it.
  __device__ void count() {
    const auto warps = static_cast<std::uint32_t>(block_warps());
    const std::uint32_t each = units_of_warp();
    for (std::uint32_t base = first_unit_ + each * warp(); base < last_unit_;
         base += each * warps) {
      const std::uint32_t index = unit_of_lane(base);
      const TopkUnit state = state_of(index);
      uint2 counts{0, 0};  // of the lane's unit
      const auto add = [&](int unit, float x) {
        const std::uint32_t key = key_of(x);
        const auto above =
            static_cast<std::uint32_t>(__popc(__ballot_sync(all_lanes, key > cut_.key)));
        const auto ties = static_cast<std::uint32_t>(
            __popc(__ballot_sync(all_lanes, key != 0 && key == cut_.key)));
        if (lane_id() == unit) counts = {counts.x + above, counts.y + ties};
      };
      if (stored_) {
        for_each_list(state,
                      [&](int j, const uint2& raw, bool) { add(j, __uint_as_float(raw.y)); });
      }
      const bool apart = index < last_unit_ && (!stored_ || state.candidates > 32);
      for (unsigned left = __ballot_sync(all_lanes, apart); left != 0; left &= left - 1) {
        const int j = __ffs(static_cast<int>(left)) - 1;
        for_each_row(base + static_cast<std::uint32_t>(j), [&](int, float x, bool) { add(j, x); });
      }
      if (index < last_unit_) {
        __stcg(reinterpret_cast<uint2*>(&scratch_.units[index].above), counts);
      }
    }
    __syncthreads();
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

  /// 32 elements of a unit, in the order of the lanes; x is 0 where there is none. `remains`: what
  /// is left of x already stands where the residual goes, and x does not.
  __device__ void write_lanes(UnitWriter& to, int index, float x, bool remains) const;

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

  __device__ UnitWriter writer_of(const Unit& unit, const TopkUnit& state) const;

  /// first[] of the block of positions that starts in a unit, if one does. By one lane.
  __device__ void write_first(const UnitWriter& to, const Unit& unit, std::uint32_t entry) const;

  /// Calls body(index, x, remains) for a unit whose candidates are many or not known, 32 elements
  /// at a time, a lane each, in order. By a warp.
  template <typename Body>
  __device__ void for_each_row(std::uint32_t unit, Body body) const {
    if (stored_) {
      const TopkUnit state = state_of(unit);
      for (std::uint32_t k = 0; k < state.candidates; k += 32) {
        const std::uint32_t at = k + static_cast<std::uint32_t>(lane_id());
        const bool valid = at < state.candidates;
        const uint2 raw = valid ? __ldcg(candidates() + state.first + at) : uint2{0, 0};
        body(static_cast<int>(raw.x & (unit_elements - 1)), __uint_as_float(raw.y), valid);
      }
      return;
    }
    Tile x;
    read(find_unit(chunk_, row_, unit), x);
    for_each<Strided>(
        [&](int row, int column) { body(Strided::element(row, column), x[row][column], false); });
  }

  /// By a warp: units base to base + 31.
  __device__ void write_units(std::uint32_t base) const;

  __device__ void write_units() const;

  /// The end of first[], and zeros where nothing else is written.
  __device__ void write_rest(std::uint32_t total) const;

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

#include "cuda/topk_write.cuh"  // its members that write
