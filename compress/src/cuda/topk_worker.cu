#include "cuda/block_kernels.cuh"
#include "cuda/topk_kernels.hpp"
#include "cuda/topk_select.cuh"

/// A worker's topk: sample a threshold, scan, select.
namespace thinwire::compress::cuda {
namespace {

// ---- sample ----

constexpr int sample_shift = 20;  // of a key to its bin
constexpr int fine_shift = 9;     // of the rest of a key to its bin in there
constexpr std::uint32_t no_sample = 0xFFFFFFFFu;
static_assert(0x7FFFFFFF >> sample_shift == topk_bins - 1);
static_assert(1 << (sample_shift - fine_shift) == topk_bins);

/// How many places are sampled in a run, and the unit of a place.
__device__ bool samples_every_unit(const TopkRow& row) {
  return row.units <= most_sample_places / sample_places_per_unit;
}
__device__ std::uint32_t places_of(const TopkRow& row) {
  return samples_every_unit(row) ? sample_places_per_unit * row.units : most_sample_places;
}
__device__ std::uint32_t unit_of_place(const TopkRow& row, std::uint32_t place) {
  if (samples_every_unit(row)) return place / sample_places_per_unit;
  return static_cast<std::uint32_t>(std::uint64_t{row.units} * place / most_sample_places);
}

/// One of the sampled elements, `sample_run` neighbours at each place: spread evenly over units,
/// with jitter inside them, the same in every step. A place may fall behind a short unit's end: so
/// all elements are as likely.
template <typename T>
__device__ std::uint32_t sample_key(const EncodeLaunch& launch, const WorkerValues& worker,
                                    const TopkRow& row, std::uint32_t place) {
  const Unit unit = find_unit_alone(launch.frame.chunk, row, unit_of_place(row, place));
  constexpr unsigned runs = unit_elements / sample_run;
  const auto jitter = static_cast<int>(mix64(place) % runs) * sample_run;
  const int at = jitter + static_cast<int>(threadIdx.x % sample_run);
  const bool exists = at < unit.elements;
  float g = 0.0f;
  float e = 0.0f;
  if (exists) {
    g = widen(static_cast<const T*>(launch.gradients)[unit.source + at]);
    if (unit.residual >= 0) e = worker.versions.committed[unit.residual + at];
  }
  const unsigned neighbours = ((1u << sample_run) - 1u) << (lane_id() & ~(sample_run - 1));
  const bool live = (__ballot_sync(all_lanes, !(g == 0.0f)) & neighbours) != 0;
  float x = g * worker.inv_scale;
  if (unit.residual >= 0) x += e;
  return !exists ? no_sample : live ? key_of(x) : 0u;
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
__device__ std::uint64_t find_rank(SelectShare& share, Count count, std::uint64_t wanted,
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
__device__ std::uint32_t find_threshold(SampleShare& share, const TopkRow& row) {
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
#pragma unroll 8
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

template <typename T>
__global__ void __launch_bounds__(select_threads)
    sample_kernel(const __grid_constant__ EncodeLaunch launch) {
  __shared__ SampleShare share;
  const TopkView& topk = launch.frame.topk;
  const WorkerValues worker{launch};
  copy_row(share.row, topk.rows[blockIdx.x / topk.sample_blocks]);
  const TopkRow& row = share.row;
  if (row.units == 0) return;
  const TopkShare blocks{blockIdx.x % topk.sample_blocks, topk.sample_blocks};
  clear_scratch(row, blocks);
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
      const std::uint32_t key = sample_key<T>(launch, worker, row, min(place, places - 1));
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

// ---- scan ----

/// Stores the lane's candidates (bit 4 row + column) of a unit, in order.
template <typename Map>
__device__ __forceinline__ void store_candidates(const TopkRow& row, std::uint32_t index,
                                                 std::uint32_t candidates, const Tile& x) {
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
    if (place + count > scratch.room) candidates = 0;
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

/// Looks at candidates that are too large: notes their blocks and returns those that are NaN or
/// Inf, which a residual never takes up.
template <typename Map>
__device__ __noinline__ std::uint32_t note_overflow(const TopkScratch& scratch, const Unit& unit,
                                                    std::uint32_t candidates, const Tile& x) {
  std::uint32_t infinite = 0;
  for_each<Map>([&](int row, int column) {
    const int bit = columns * row + column;
    const std::uint32_t key = key_of(x[row][column]);
    if ((candidates >> bit & 1u) == 0 || key < overflow_bits(Codec::topk)) return;
    const std::int64_t position = position_of(unit) + Map::element(row, column);
    scratch.non_finite[position / topk_block] = 1;
    scratch.control->non_finite = 1;
    if (key >= overflow_bits(Codec::none)) infinite |= 1u << bit;
  });
  return infinite;
}

template <typename Map, typename T>
__device__ __forceinline__ void scan_unit(const EncodeLaunch& launch, const WorkerValues& worker,
                                          const TopkRow& row, std::uint32_t threshold,
                                          const Unit& unit, std::uint32_t index) {
  const ResidualPlace residual = residual_place(worker.versions, unit.residual);
  Tile x;
  read_elements<Map>(static_cast<const T*>(launch.gradients) + unit.source, unit.elements, x);
  const std::uint32_t live = live_groups<Map>(x);
  for_each<Map>([&](int r, int column) {
    x[r][column] *= worker.inv_scale;
    if (!Map::whole && Map::element(r, column) >= unit.elements) x[r][column] = 0.0f;
  });
  add_residual<Map>(residual, unit.elements, x);
  std::uint32_t candidates = 0;
  std::uint32_t largest = 0;
  for_each<Map>([&](int r, int column) {
    const bool takes = (live >> Map::group(r, column) & 1u) != 0;
    const std::uint32_t key = takes ? key_of(x[r][column]) : 0;
    if (key > threshold) candidates |= 1u << (columns * r + column);
    largest = max(largest, key);
  });
  std::uint32_t kept = 0;
  if (__any_sync(all_lanes, largest >= overflow_bits(Codec::topk))) {
    // A copy: x itself must stay in registers.
    Tile copy;
    for_each<Map>([&](int r, int column) { copy[r][column] = x[r][column]; });
    kept = note_overflow<Map>(row.scratch, unit, candidates, copy);
  }
  if (residual.committed != nullptr) {
    store_residual<Map>(residual, unit.elements, live, x, kept);
  }
  store_candidates<Map>(row, index, candidates, x);
}

template <typename T>
__device__ __noinline__ void scan_uneven_tile(const EncodeLaunch& launch, const TileWalk& walk,
                                              const TopkRow& row, std::uint32_t threshold) {
  const WorkerValues worker{launch};
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<TopkWalk>(k);
    const std::uint32_t index = walk.tile().first_unit + k - row.first_unit;
    if (is_packed<TopkWalk>(unit, 0, static_cast<const T*>(launch.gradients))) {
      scan_unit<Packed, T>(launch, worker, row, threshold, unit, index);
    } else {
      scan_unit<Strided, T>(launch, worker, row, threshold, unit, index);
    }
  }
}

template <typename Map, typename T>
__device__ __forceinline__ void scan_even_tile(const EncodeLaunch& launch, const TileWalk& walk,
                                               const TopkRow& row, std::uint32_t threshold,
                                               Unit unit) {
  const WorkerValues worker{launch};
  advance<TopkWalk>(unit, static_cast<int>(threadIdx.x / 32));
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const std::uint32_t index = walk.tile().first_unit + k - row.first_unit;
    scan_unit<Map, T>(launch, worker, row, threshold, unit, index);
    advance<TopkWalk>(unit, warps_per_tile);
  }
}

template <typename T>
__global__ void __launch_bounds__(threads_per_tile, encode_tiles_per_sm)
    scan_kernel(const __grid_constant__ EncodeLaunch launch) {
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  __shared__ TopkRow row;
  copy_row(row, frame.topk.rows[tile.shard]);
  const std::uint32_t threshold = row.scratch.control->threshold;
  const TileWalk walk{frame.chunk, tile};
  const Unit first = walk.unit<TopkWalk>(0);
  if (!walk.is_even()) {
    scan_uneven_tile<T>(launch, walk, row, threshold);
  } else if (is_packed<TopkWalk>(first, 0, static_cast<const T*>(launch.gradients))) {
    scan_even_tile<Packed, T>(launch, walk, row, threshold, first);
  } else {
    scan_even_tile<StridedWhole, T>(launch, walk, row, threshold, first);
  }
  if (launch.writes_pads) {
    write_pads(frame.chunk.pads[static_cast<int>(Phase::reduce)], 0, frame.chunk.shards,
               launch.slots, frame.chunk.slot_bytes[static_cast<int>(Phase::reduce)]);
  }
}

// ---- select ----

/// After the scan x of a live group stands in the next residual; without feedback it is made again.
struct WorkerX {
  const EncodeLaunch& launch;
  WorkerValues worker;

  __device__ float* left(const Unit& unit) const {
    return unit.residual < 0 ? nullptr : worker.versions.next + unit.residual;
  }

  __device__ __noinline__ void read(const Unit& unit, Tile& x) const {
    const auto read_as = [&](auto tag) {
      using T = decltype(tag);
      read_elements<Strided>(static_cast<const T*>(launch.gradients) + unit.source, unit.elements,
                             x);
    };
    if (launch.dtype == DType::f32) {
      read_as(float{});
    } else if (launch.dtype == DType::f16) {
      read_as(Half{});
    } else {
      read_as(BFloat16{});
    }
    const std::uint32_t live = live_groups<Strided>(x);
    Tile stands;
    if (left(unit) != nullptr) read_elements<Strided>(left(unit), unit.elements, stands);
    for_each<Strided>([&](int row, int column) {
      const bool takes = (live >> Strided::group(row, column) & 1u) != 0;
      const float value =
          left(unit) != nullptr ? stands[row][column] : x[row][column] * worker.inv_scale;
      // Behind the unit's end there is nothing, whatever 0 times the scale may be.
      const bool exists = Strided::element(row, column) < unit.elements;
      x[row][column] = takes && exists ? value : 0.0f;
    });
  }
};

__global__ void __launch_bounds__(select_threads, 1)
    select_kernel(const __grid_constant__ EncodeLaunch launch) {
  __shared__ SelectShare select_share;
  __shared__ BlockShare share;
  __shared__ TopkRow row;
  const VerbFrame& frame = launch.frame;
  const std::uint32_t shard = blockIdx.x / frame.topk.blocks;
  copy_row(row, frame.topk.rows[shard]);
  if (row.units == 0) return;
  const TopkShare blocks{blockIdx.x % frame.topk.blocks, frame.topk.blocks};
  std::byte* slot = launch.slots + shard * frame.chunk.slot_bytes[static_cast<int>(Phase::reduce)];
  const WorkerX source{launch, WorkerValues{launch}};
  TopkSelection selection{select_share,
                          frame.chunk,
                          row,
                          blocks,
                          source,
                          Phase::reduce,
                          launch.settings.zero_non_finite,
                          slot};
  const std::uint32_t flag = launch.settings.zero_non_finite ? flag_zeroed : flag_non_finite;
  const std::uint32_t flags = selection.write() ? flag : 0u;
  const Arrival arrival{shard, (row.first_way + blocks.index) % ways, frame.chunk.arrivals[shard],
                        digest_run(row, Phase::reduce, slot, blocks), flags};
  if (gather_as_last(share, frame, arrival, false)) finish_encode(launch);
}

}  // namespace

void topk_encode(const EncodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream) {
  const TopkView& topk = launch.frame.topk;
  const std::uint32_t shards = launch.frame.chunk.shards;
  visit_dtype(launch.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    sample_kernel<T><<<shards * topk.sample_blocks, select_threads, 0, stream>>>(launch);
    THINWIRE_CUDA_TRY(cudaGetLastError());
    start(scan_kernel<T>, launch, tiles, stream);
  });
  start_together(select_kernel, launch, topk.blocks, shards, stream);
}

}  // namespace thinwire::compress::cuda
