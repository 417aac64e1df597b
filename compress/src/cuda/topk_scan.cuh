#pragma once

#include "cuda/topk_block.cuh"
#include "cuda/unit.cuh"

namespace thinwire::compress::cuda {

/// Stores the lane's candidates (bit 4 row + column) of a unit, in order, and leaves in x what
/// would remain of them: most are sent, and the selection has to put back only the others.
template <typename Map>
__device__ __forceinline__ void store_candidates(const TopkRow& row, std::uint32_t index,
                                                 std::uint32_t candidates, Tile& x) {
  const TopkScratch& scratch = row.scratch;
  const std::uint32_t count =
      __reduce_add_sync(all_lanes, static_cast<std::uint32_t>(__popc(candidates)));
  // Only a unit with more candidates than usual has to ask for a place, and wait for it.
  std::uint32_t first = index * row.segment;
  const bool crowded = count > row.segment;
  if (crowded) {
    std::uint32_t place = 0;
    if (lane_id() == 0) place = atomicAdd(&scratch.control->crowded, count);
    place = __shfl_sync(all_lanes, place, 0);
    first = row.units * row.segment + place;
    if (place + count > scratch.room) {
      candidates = 0;
      first = topk_no_room;
    }
  }
  auto* list = reinterpret_cast<uint2*>(scratch.candidates);
  const std::uint32_t kept = crowded ? 0 : count;
  if (lane_id() >= kept && lane_id() < row.segment) {
    __stcg(list + index * row.segment + lane_id(), uint2{0, 0});
  }
  if (lane_id() == 0) {
    __stcg(reinterpret_cast<uint4*>(scratch.units + index), uint4{first, count, 0, 0});
  }
  if (__all_sync(all_lanes, candidates == 0)) return;
  const auto put = [&](std::uint32_t at, int r, int column) {
    const auto element = static_cast<std::uint32_t>(Map::element(r, column));
    __stcg(list + at, uint2{index << topk_place_bits | element, __float_as_uint(x[r][column])});
    x[r][column] = remainder_of(x[r][column]);
  };
  if constexpr (Map::vectors) {
    // Counts by row in bytes, even rows and odd rows: summed up over the lanes together.
    std::uint32_t pairs = candidates - (candidates >> 1 & 0x55555555u);
    pairs = (pairs & 0x33333333u) + (pairs >> 2 & 0x33333333u);
    const std::uint32_t own[2] = {pairs & 0x0F0F0F0Fu, pairs >> 4 & 0x0F0F0F0Fu};
    std::uint32_t until[2] = {own[0], own[1]};
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint32_t other = __shfl_up_sync(all_lanes, until[half], distance);
        if (lane_id() >= distance) until[half] += other;
      }
    }
    const std::uint32_t totals[2] = {__shfl_sync(all_lanes, until[0], 31),
                                     __shfl_sync(all_lanes, until[1], 31)};
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int shift = 8 * (r / 2);
      const std::uint32_t bits = candidates >> (columns * r) & 0xFu;
      if (bits != 0) {
        std::uint32_t at = first + ((until[r % 2] - own[r % 2]) >> shift & 0xFFu);
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          if ((bits >> column & 1u) != 0) put(at++, r, column);
        }
      }
      first += totals[r % 2] >> shift & 0xFFu;
    }
  } else {
    const unsigned lower = (1u << lane_id()) - 1;
    for_each<Map>([&](int r, int column) {
      const bool has = (candidates >> (columns * r + column) & 1u) != 0;
      const unsigned all = __ballot_sync(all_lanes, has);
      if (has) put(first + static_cast<std::uint32_t>(__popc(all & lower)), r, column);
      first += static_cast<std::uint32_t>(__popc(all));
    });
  }
}

}  // namespace thinwire::compress::cuda
