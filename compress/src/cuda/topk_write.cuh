#pragma once

#include "cuda/topk_select.cuh"

/// How a selection writes what it has selected: the entries of a run, and what is left of x.
namespace thinwire::compress::cuda {

template <typename Source>
__device__ inline void TopkSelection<Source>::write_lanes(UnitWriter& to, int index, float x,
                                                          bool remains) const {
  const std::uint32_t key = key_of(x);
  const unsigned lower = (1u << lane_id()) - 1;
  const bool ties = key != 0 && key == cut_.key;
  const unsigned all_ties = __ballot_sync(all_lanes, ties);
  const bool taken =
      key > cut_.key || (ties && static_cast<std::uint32_t>(__popc(all_ties & lower)) < to.ties);
  const unsigned all_taken = __ballot_sync(all_lanes, taken);
  const auto early =
      static_cast<std::uint32_t>(__popc(__ballot_sync(all_lanes, taken && index < to.block_start)));
  if (taken) {
    const std::uint32_t entry = to.entry + static_cast<std::uint32_t>(__popc(all_taken & lower));
    locals()[entry] = static_cast<std::uint16_t>(static_cast<std::uint32_t>(to.position) +
                                                 static_cast<std::uint32_t>(index));
    values()[entry] = bf16_bits(x);
  }
  if (to.left != nullptr && taken != remains) to.left[index] = taken ? remainder_of(x) : x;
  to.entry += static_cast<std::uint32_t>(__popc(all_taken));
  to.early += early;
  to.ties -= min(to.ties, static_cast<std::uint32_t>(__popc(all_ties)));
}

template <typename Source>
__device__ inline typename TopkSelection<Source>::UnitWriter TopkSelection<Source>::writer_of(
    const Unit& unit, const TopkUnit& state) const {
  const std::int64_t position = position_of(unit);
  const auto start = static_cast<int>(-static_cast<std::uint64_t>(position) & (topk_block - 1));
  return {position, source_.left(unit), state.above, state.ties, start, 0};
}

template <typename Source>
__device__ inline void TopkSelection<Source>::write_first(const UnitWriter& to, const Unit& unit,
                                                          std::uint32_t entry) const {
  if (to.block_start >= unit.elements) return;
  const auto block = static_cast<std::uint32_t>((to.position + to.block_start) / topk_block);
  const bool flagged =
      some_non_finite_ && !zero_non_finite_ && __ldcg(scratch_.non_finite + block) != 0;
  first_words()[block] = (entry + to.early) | (flagged ? topk_non_finite : 0u);
}

template <typename Source>
__device__ inline void TopkSelection<Source>::write_units(std::uint32_t base) const {
  const std::uint32_t index = unit_of_lane(base);
  const TopkUnit state = state_of(index);
  const Unit unit = find_unit_alone(chunk_, row_, min(index, last_unit_ - 1));
  UnitWriter own = writer_of(unit, state);
  const auto write = [&](int j, int at, float x, bool remains) {
    UnitWriter to;
    to.position = __shfl_sync(all_lanes, own.position, j);
    to.left = reinterpret_cast<float*>(
        __shfl_sync(all_lanes, reinterpret_cast<unsigned long long>(own.left), j));
    to.entry = __shfl_sync(all_lanes, own.entry, j);
    to.ties = __shfl_sync(all_lanes, own.ties, j);
    to.block_start = __shfl_sync(all_lanes, own.block_start, j);
    to.early = __shfl_sync(all_lanes, own.early, j);
    write_lanes(to, at, x, remains);
    if (lane_id() == j) own = to;
  };
  if (stored_) {
    for_each_list(state, [&](int j, const uint2& raw, bool valid) {
      write(j, static_cast<int>(raw.x & (unit_elements - 1)), __uint_as_float(raw.y), valid);
    });
  }
  const bool apart = index < last_unit_ && (!stored_ || state.candidates > 32);
  for (unsigned left = __ballot_sync(all_lanes, apart); left != 0; left &= left - 1) {
    const int j = __ffs(static_cast<int>(left)) - 1;
    for_each_row(base + static_cast<std::uint32_t>(j),
                 [&](int at, float x, bool remains) { write(j, at, x, remains); });
  }
  if (index < last_unit_) write_first(own, unit, state.above);
}

template <typename Source>
__device__ inline void TopkSelection<Source>::write_units() const {
  const auto warps = static_cast<std::uint32_t>(block_warps());
  const std::uint32_t each = units_of_warp();
  for (std::uint32_t base = first_unit_ + each * warp(); base < last_unit_; base += each * warps) {
    write_units(base);
  }
}

template <typename Source>
__device__ inline void TopkSelection<Source>::write_rest(std::uint32_t total) const {
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

}  // namespace thinwire::compress::cuda
