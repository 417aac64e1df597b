#pragma once

#include "block_rules.hpp"
#include "cuda/finish.cuh"
#include "cuda/topk_block.cuh"
#include "cuda/topk_entries.cuh"

/// A threshold for candidates from a sample of x. It only decides what a selection costs.
namespace thinwire::compress::cuda {

constexpr int sample_shift = 20;  // of a key to its bin
constexpr int fine_shift = 9;     // of the rest of a key to its bin in there
constexpr std::uint32_t no_sample = 0xFFFFFFFFu;
static_assert(0x7FFFFFFF >> sample_shift == topk_bins - 1);
static_assert(1 << (sample_shift - fine_shift) == topk_bins);

/// How many places are sampled in a run, and the unit of a place.
__device__ inline bool samples_every_unit(const TopkRow& row) {
  return row.units <= most_sample_places / sample_places_per_unit;
}
__device__ inline std::uint32_t places_of(const TopkRow& row) {
  return samples_every_unit(row) ? sample_places_per_unit * row.units : most_sample_places;
}
__device__ inline std::uint32_t unit_of_place(const TopkRow& row, std::uint32_t place) {
  if (samples_every_unit(row)) return place / sample_places_per_unit;
  return static_cast<std::uint32_t>(std::uint64_t{row.units} * place / most_sample_places);
}

/// The sampled elements are `sample_run` neighbours at each place: spread evenly over units, with
/// jitter inside them, the same in every step. A place may fall behind a short unit's end: so all
/// elements are as likely.
__device__ inline int element_of_place(std::uint32_t place) {
  constexpr unsigned runs = unit_elements / sample_run;
  return static_cast<int>(mix64(place) % runs) * sample_run +
         static_cast<int>(threadIdx.x % sample_run);
}

struct SampleShare {
  std::uint32_t counts[topk_bins];
  SelectShare select;
  TopkRow row;
  bool last;
};

/// Counts from the top: the bin that holds number `rank`, and how many come before it in there.
/// Returns the number of all.
template <typename Count>
__device__ inline std::uint64_t find_rank(SelectShare& share, Count count, std::uint64_t wanted,
                                          std::uint64_t elements) {
  constexpr int per_thread = topk_bins / select_threads;
  std::uint32_t own[per_thread];
  std::uint64_t sum = 0;
  const auto bin_of = [](int i) {
    return topk_bins - 1 - (per_thread * static_cast<int>(threadIdx.x) + i);
  };
#pragma unroll
  for (int i = 0; i < per_thread; ++i) {
    own[i] = count(bin_of(i));
    sum += own[i];
  }
  std::uint64_t total = 0;
  std::uint64_t above = block_scan(share, sum, total) - sum;
  const std::uint64_t rank = elements == 0 ? wanted : wanted * total / elements;
#pragma unroll
  for (int i = 0; i < per_thread; ++i) {
    if (above <= rank && rank < above + own[i]) {
      share.cut = {static_cast<std::uint32_t>(bin_of(i)), static_cast<std::uint32_t>(rank - above)};
    }
    above += own[i];
  }
  __syncthreads();
  return total;
}

/// The last thread block of a run: a threshold that about `wanted` keys are over.
__device__ inline std::uint32_t find_threshold(SampleShare& share, const TopkRow& row) {
  if (row.wanted == 0) return 0;
  std::uint32_t* coarse = row.scratch.sample;
  const auto take = [&](int bin) {
    const std::uint32_t count = __ldcg(coarse + bin);
    coarse[bin] = 0;
    return count;
  };
  const auto elements = static_cast<std::uint64_t>(row.elements);
  if (find_rank(share.select, take, row.wanted, elements) == 0) return 0;
  const TopkCut bin = share.select.cut;
  // The bin may be broad where magnitudes crowd: the same in there.
  for (int i = static_cast<int>(threadIdx.x); i < topk_bins; i += blockDim.x) {
    share.counts[i] = 0;
  }
  __syncthreads();
  const std::uint32_t samples = places_of(row) * sample_run;
#pragma unroll 16
  for (std::uint32_t i = threadIdx.x; i < samples; i += blockDim.x) {
    const std::uint32_t key = __ldcg(row.scratch.keys + i);
    if (key >> sample_shift != bin.key) continue;
    atomicAdd(&share.counts[key >> fine_shift & (topk_bins - 1)], 1u);
  }
  __syncthreads();
  find_rank(
      share.select, [&](int i) { return share.counts[i]; }, bin.ties, 0);
  const std::uint32_t from = bin.key << sample_shift | share.select.cut.key << fine_shift;
  return min(from == 0 ? 0 : from - 1, overflow_bits(Codec::topk) - 1);
}

/// By the thread blocks of a run: key_of_element(unit, index) is called by whole warps, and says
/// no_sample behind the unit's end.
template <typename Key>
__device__ void sample_run_keys(SampleShare& share, const ChunkView& chunk, const TopkShare& blocks,
                                Key key_of_element) {
  const TopkRow& row = share.row;
  if (row.wanted != 0) {
    for (int bin = static_cast<int>(threadIdx.x); bin < topk_bins; bin += blockDim.x) {
      share.counts[bin] = 0;
    }
    const std::uint32_t places = places_of(row);
    __syncthreads();
    // Whole warps stay together, though the last ones may have nothing to do.
    for (std::uint64_t i = blocks.first(); i < (places * sample_run + 31) / 32 * 32;
         i += blocks.stride()) {
      const auto place = static_cast<std::uint32_t>(i / sample_run);
      const std::uint32_t existing = min(place, places - 1);
      const Unit unit = find_unit_alone(chunk, row, unit_of_place(row, existing));
      const std::uint32_t key = key_of_element(unit, element_of_place(existing));
      if (place >= places) continue;
      row.scratch.keys[i] = key;
      if (key != no_sample) atomicAdd(&share.counts[key >> sample_shift], 1u);
    }
    __syncthreads();
    for (int bin = static_cast<int>(threadIdx.x); bin < topk_bins; bin += blockDim.x) {
      if (share.counts[bin] != 0) atomicAdd(row.scratch.sample + bin, share.counts[bin]);
    }
  }
  // What every thread has written must be there before the ticket is.
  fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    share.last = atomicAdd(&row.scratch.control->sampled, 1u) + 1 == blocks.count;
    fence();
  }
  __syncthreads();
  if (!share.last) return;
  const std::uint32_t threshold = find_threshold(share, row);
  if (threadIdx.x == 0) {
    row.scratch.control->threshold = threshold;
    row.scratch.control->sampled = 0;
  }
}

}  // namespace thinwire::compress::cuda
