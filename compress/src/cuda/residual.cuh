#pragma once

#include "cuda/block_codec.cuh"
#include "cuda/launch.hpp"

/// What a warp does with a unit before and after it is coded, whatever the codec.
namespace thinwire::compress::cuda {

__device__ inline float scale_or_one(const float* scale) {
  return scale != nullptr ? __ldg(scale) : 1.0f;
}

/// Bit j: an input of group j is not 0 (a NaN is not).
template <typename Map>
__device__ __forceinline__ std::uint32_t live_groups(const Tile& input) {
  std::uint32_t live = 0;
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    const auto bits_of = [&](int column) { return __float_as_uint(input[row][column]); };
    const std::uint32_t first = bits_of(0) | bits_of(1);
    const std::uint32_t last = bits_of(2) | bits_of(3);
    if constexpr (Map::vectors) {
      if ((first | last) << 1 != 0) live |= 1u << Map::group(row, 0);
    } else {
      if (first << 1 != 0) live |= 1u << Map::group(row, 0);
      if (last << 1 != 0) live |= 1u << Map::group(row, 2);
    }
  }
  return __reduce_or_sync(all_lanes, live);
}

struct ResidualPlace {
  const float* committed;  ///< null without feedback
  float* next;
};

/// Writes what is left of x to the next residual. Groups that are not coded keep the committed one,
/// and so do the lane's elements in `kept` (bit 4 row + column).
template <typename Map>
__device__ __forceinline__ void store_residual(const ResidualPlace& place, int elements,
                                               std::uint32_t coded, const Tile& left,
                                               std::uint32_t kept = 0) {
  const std::uint32_t all = (2u << ((elements - 1) / 64)) - 1u;
  const bool in_place = place.committed == place.next;
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    if ((coded & all) == all && kept == 0) {
      store_row<Map>(place.next, elements, row, left[row]);
      continue;
    }
#pragma unroll
    for (int column = 0; column < columns; ++column) {
      const int at = Map::element(row, column);
      if (!Map::whole && at >= elements) continue;
      const bool takes = (coded >> Map::group(row, column) & 1u) != 0;
      if (takes && (kept >> (columns * row + column) & 1u) == 0) {
        place.next[at] = left[row][column];
      } else if (!in_place) {
        place.next[at] = place.committed[at];
      }
    }
  }
}

template <typename Map>
__device__ __forceinline__ void add_residual(const ResidualPlace& residual, int elements, Tile& x) {
  if (residual.committed == nullptr) return;
  Tile e;
  read_elements<Map>(residual.committed, elements, e);
  for_each<Map>([&](int row, int column) { x[row][column] += e[row][column]; });
}

__device__ inline ResidualPlace versions_of(const ResidualVersions& versions, std::uint32_t now) {
  return {versions.base[now], versions.base[now ^ 1u]};
}
__device__ inline ResidualPlace residual_place(const ResidualPlace& versions, std::int64_t first) {
  if (first < 0) return {nullptr, nullptr};
  return {versions.committed + first, versions.next + first};
}

}  // namespace thinwire::compress::cuda
