#pragma once

#include "cuda/finish.cuh"
#include "cuda/launch.hpp"
#include "run_layout.hpp"

/// What the thread blocks of topk's kernels share.
namespace thinwire::compress::cuda {

/// One of several thread blocks that share work on a run.
struct TopkShare {
  std::uint32_t index;
  std::uint32_t count;

  __device__ std::uint64_t first() const { return index * blockDim.x + threadIdx.x; }
  __device__ std::uint64_t stride() const { return count * blockDim.x; }
};

__device__ inline std::uint32_t key_of(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

/// What a residual keeps of an x that is sent.
__device__ inline float remainder_of(float x) { return x - from_bf16_bits(bf16_bits(x)); }

/// Keys over `key` are taken, and `ties` of those that equal it, lowest positions first. A key of 0
/// is none.
struct TopkCut {
  std::uint32_t key;
  std::uint32_t ties;
};

struct SelectShare {
  std::uint32_t counts[topk_bins];
  std::uint64_t sums[most_warps];
  TopkCut cut;
};

/// Inclusive sums over the thread block; every thread gets the total too. Begins with a barrier.
__device__ inline std::uint64_t block_scan(SelectShare& share, std::uint64_t value,
                                           std::uint64_t& total) {
  const int lane = lane_id();
  const int warp = static_cast<int>(threadIdx.x / 32);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const std::uint64_t other = __shfl_up_sync(all_lanes, value, distance);
    if (lane >= distance) value += other;
  }
  __syncthreads();
  if (lane == 31) share.sums[warp] = value;
  __syncthreads();
  std::uint64_t of_warp = lane < block_warps() ? share.sums[lane] : 0;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const std::uint64_t other = __shfl_up_sync(all_lanes, of_warp, distance);
    if (lane >= distance) of_warp += other;
  }
  total = __shfl_sync(all_lanes, of_warp, 31);
  const std::uint64_t before = __shfl_sync(all_lanes, of_warp, (warp + 31) % 32);
  return warp == 0 ? value : value + before;
}

/// A run's row where all threads of a thread block read it fast: a thread's share of it is loaded,
/// and then put there.
__device__ inline std::uint64_t load_row(const TopkRow& from) {
  constexpr int words = sizeof(TopkRow) / sizeof(std::uint64_t);
  static_assert(sizeof(TopkRow) % sizeof(std::uint64_t) == 0 && words <= 32);
  return threadIdx.x < words ? reinterpret_cast<const std::uint64_t*>(&from)[threadIdx.x] : 0;
}
__device__ inline void store_row_words(TopkRow& to, std::uint64_t word) {
  constexpr int words = sizeof(TopkRow) / sizeof(std::uint64_t);
  if (threadIdx.x < words) reinterpret_cast<std::uint64_t*>(&to)[threadIdx.x] = word;
  __syncthreads();
}
__device__ inline void copy_row(TopkRow& to, const TopkRow& from) {
  store_row_words(to, load_row(from));
}

/// Empties the scratch of a run for the launches after this one.
__device__ inline void clear_scratch(const TopkRow& row, const TopkShare& share) {
  const auto blocks = static_cast<std::uint64_t>(ceil_div(row.elements, topk_block));
  for (std::uint64_t i = share.first(); i < topk_looks * topk_bins; i += share.stride()) {
    row.scratch.digits[i] = 0;
  }
  for (std::uint64_t i = share.first(); i < blocks; i += share.stride()) {
    row.scratch.non_finite[i] = 0;
  }
  if (share.first() == 0) {
    row.scratch.control->crowded = 0;
    row.scratch.control->non_finite = 0;
    row.scratch.control->arrived = 0;
  }
}

}  // namespace thinwire::compress::cuda
