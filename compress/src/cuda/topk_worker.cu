#include "cuda/block_kernels.cuh"
#include "cuda/topk_kernels.hpp"
#include "cuda/topk_sample.cuh"
#include "cuda/topk_scan.cuh"
#include "cuda/topk_select.cuh"

/// A worker's topk: sample a threshold, scan, select.
namespace thinwire::compress::cuda {
namespace {

// ---- sample ----

/// Of a sampled element. Groups of 64 are dead for a worker if their inputs are 0: neighbours tell.
template <typename T>
__device__ std::uint32_t sample_key(const EncodeLaunch& launch, const WorkerValues& worker,
                                    const Unit& unit, int at) {
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
  sample_run_keys(share, launch.frame.chunk, blocks, [&](const Unit& unit, int at) {
    return sample_key<T>(launch, worker, unit, at);
  });
}

// ---- scan ----

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
  store_candidates<Map>(row, index, candidates, x);
  if (residual.committed != nullptr) {
    store_residual<Map>(residual, unit.elements, live, x, kept);
  }
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
  const std::uint64_t words = load_row(frame.topk.rows[tile.shard]);
  const TileWalk walk{frame.chunk, tile};
  const Unit first = walk.unit<TopkWalk>(0);
  store_row_words(row, words);
  const std::uint32_t threshold = row.scratch.control->threshold;
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
  gather(share, frame,
         {.index = row.first_arrival + blocks.index,
          .shard = shard,
          .digest = digest_run(row, Phase::reduce, slot, blocks),
          .flags = flags});
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
