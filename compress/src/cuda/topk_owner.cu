#include "cuda/block_kernels.cuh"
#include "cuda/topk_kernels.hpp"
#include "cuda/topk_sample.cuh"
#include "cuda/topk_scan.cuh"
#include "cuda/topk_select.cuh"

/// An owner's topk: which pieces got an entry, sample a threshold, scan, select.
namespace thinwire::compress::cuda {
namespace {

constexpr float* no_memory = nullptr;

/// A warp a piece. Empties the scratch for the kernels after it, too.
__global__ void __launch_bounds__(threads_per_tile)
    touched_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  const TopkRow& row = launch.frame.topk.rows[launch.shard];
  const TopkShare blocks{blockIdx.x, gridDim.x};
  clear_scratch(row, blocks);
  const PieceRow* pieces = launch.frame.chunk.pieces + row.first_piece;
  const auto warps = static_cast<std::uint32_t>(block_warps());
  for (std::uint32_t i = blocks.index * warps + threadIdx.x / 32; i < row.pieces;
       i += blocks.count * warps) {
    const auto position = static_cast<std::int64_t>(pieces[i].scale_byte);
    bool touched = false;
    for (int peer = 0; peer < launch.inputs.ranks && !touched; ++peer) {
      const TopkEntries run{row, Phase::reduce,
                            launch.inputs.slots + peer * launch.inputs.slot_bytes};
      touched = run.entries_before(position + pieces[i].elements) > run.entries_before(position);
    }
    if (lane_id() == 0) row.scratch.touched[i] = touched ? 1 : 0;
  }
}

/// Where x stands after the scan: in the next server residual, or in scratch without feedback.
struct OwnerX {
  const TopkRow& row;
  float* next;

  __device__ float* left(const Unit& unit) const {
    return unit.server < 0 ? no_memory : next + unit.server;
  }
  __device__ float* stands(const Unit& unit) const {
    return unit.server < 0 ? row.scratch.x + position_of(unit) : next + unit.server;
  }
  __device__ bool takes_part(const Unit& unit) const {
    return __ldcg(row.scratch.touched + (unit.piece - row.first_piece)) != 0;
  }

  __device__ __noinline__ void read(const Unit& unit, Tile& x) const {
    if (!takes_part(unit)) {
      for_each<Strided>([&](int r, int column) { x[r][column] = 0.0f; });
      return;
    }
    read_elements<Strided>(stands(unit), unit.elements, x);
  }
};

__global__ void __launch_bounds__(select_threads)
    sample_sums_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  __shared__ SampleShare share;
  copy_row(share.row, launch.frame.topk.rows[launch.shard]);
  const TopkRow& row = share.row;
  const Inputs& inputs = launch.inputs;
  const ResidualPlace server = versions_of(launch.server, launch.state->server_version);
  const TopkShare blocks{blockIdx.x, gridDim.x};
  sample_run_keys(share, launch.frame.chunk, blocks, [&](const Unit& unit, int at) {
    if (at >= unit.elements) return no_sample;
    if (!OwnerX{row, nullptr}.takes_part(unit)) return 0u;
    float x = 0.0f;
    for (int peer = 0; peer < inputs.ranks; ++peer) {
      const TopkEntries run{row, Phase::reduce, inputs.slots + peer * inputs.slot_bytes};
      x += run.value_at(position_of(unit) + at);
    }
    x *= inputs.one_over_ranks;
    if (unit.server >= 0) x += server.committed[unit.server + at];
    return key_of(x);
  });
}

template <typename Map>
__device__ __forceinline__ void scan_unit(const ReduceEncodeLaunch& launch, const TopkRow& row,
                                          const ResidualPlace& server, const Unit& unit,
                                          std::uint32_t threshold, std::uint32_t index,
                                          float* sums) {
  const std::int64_t position = position_of(unit);
  sum_entries(row, Phase::reduce, launch.inputs, position, unit.elements, sums);
  Tile x;
  read_sums<Map>(sums, x);
  __syncwarp();
  const ResidualPlace residual = residual_place(server, unit.server);
  for_each<Map>([&](int r, int column) { x[r][column] *= launch.inputs.one_over_ranks; });
  add_residual<Map>(residual, unit.elements, x);
  const bool takes = OwnerX{row, nullptr}.takes_part(unit);
  std::uint32_t infinite = 0;
  std::uint32_t candidates = 0;
  for_each<Map>([&](int r, int column) {
    const int at = Map::element(r, column);
    const std::uint32_t key = key_of(x[r][column]);
    const bool is_infinite = key >= overflow_bits(Codec::none);
    if (!Map::whole && at >= unit.elements) return;
    if (is_infinite) infinite |= 1u << (columns * r + column);
    if (takes && key > threshold) candidates |= 1u << (columns * r + column);
    // A NaN or Inf always takes part, so that it goes on.
    if (is_infinite || (takes && key >= overflow_bits(Codec::topk))) {
      row.scratch.non_finite[(position + at) / topk_block] = 1;
      row.scratch.control->non_finite = 1;
    }
  });
  if (residual.committed == nullptr) {
    for_each<Map>([&](int r, int column) {
      const int at = Map::element(r, column);
      if (Map::whole || at < unit.elements) row.scratch.x[position + at] = x[r][column];
    });
  }
  store_candidates<Map>(row, index, candidates, x);
  if (residual.committed != nullptr) {
    store_residual<Map>(residual, unit.elements, takes ? 0xFFFFu : 0u, x, infinite);
  }
}

__global__ void __launch_bounds__(threads_per_tile, reduce_tiles_per_sm)
    scan_sums_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  __shared__ float sums[warps_per_tile][unit_elements];
  __shared__ TopkRow row;
  const VerbFrame& frame = launch.frame;
  copy_row(row, frame.topk.rows[launch.shard]);
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  const TileWalk walk{frame.chunk, tile};
  const ResidualPlace server = versions_of(launch.server, launch.state->server_version);
  const std::uint32_t threshold = row.scratch.control->threshold;
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<TopkWalk>(k);
    float* own_sums = sums[threadIdx.x / 32];
    const std::uint32_t index = tile.first_unit + k - row.first_unit;
    if (unit.elements == unit_elements && unit.server >= 0) {
      scan_unit<Packed>(launch, row, server, unit, threshold, index, own_sums);
    } else {
      scan_unit<Strided>(launch, row, server, unit, threshold, index, own_sums);
    }
  }
  if (launch.writes_pads) {
    write_pads(frame.chunk.pads[static_cast<int>(Phase::gather)], launch.shard, launch.shard + 1,
               launch.slot_out, 0);
  }
}

__global__ void __launch_bounds__(select_threads, 1)
    select_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  __shared__ SelectShare select_share;
  __shared__ BlockShare share;
  __shared__ TopkRow row;
  const VerbFrame& frame = launch.frame;
  copy_row(row, frame.topk.rows[launch.shard]);
  const TopkShare blocks{blockIdx.x, gridDim.x};
  std::uint64_t digest_in = 0;
  for (int peer = 0; peer < launch.inputs.ranks; ++peer) {
    const std::byte* slot = launch.inputs.slots + peer * launch.inputs.slot_bytes;
    digest_in += digest_run(row, Phase::reduce, slot, blocks);
    check_entries(frame, row, Phase::reduce, slot, peer, launch.shard, blocks);
  }
  HeaderCheck check;
  if (blocks.index == 0 && row.first_arrival == frame.chunk.arrivals[launch.shard]) {
    check = check_headers(frame, Phase::reduce, launch.shard, launch.inputs.slots,
                          launch.inputs.slot_bytes, 0, launch.inputs.ranks);
  }
  const ResidualPlace server = versions_of(launch.server, launch.state->server_version);
  const OwnerX source{row, server.next};
  TopkSelection selection{select_share,
                          frame.chunk,
                          row,
                          blocks,
                          source,
                          Phase::gather,
                          launch.settings.zero_non_finite,
                          launch.slot_out};
  const std::uint32_t flag = launch.settings.zero_non_finite ? flag_zeroed : flag_non_finite;
  const std::uint32_t flags = check.flags | (selection.write() ? flag : 0u);
  gather<true>(share, frame,
               {.index = row.first_arrival + blocks.index,
                .shard = launch.shard,
                .digest = digest_in + check.digest,
                .flags = flags},
               digest_run(row, Phase::gather, launch.slot_out, blocks));
}

}  // namespace

void topk_reduce_encode(const ReduceEncodeLaunch& launch, std::uint32_t tiles,
                        cudaStream_t stream) {
  start(touched_kernel, launch, touched_blocks, stream);
  sample_sums_kernel<<<launch.frame.topk.sample_blocks, select_threads, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
  start(scan_sums_kernel, launch, tiles, stream);
  start_together(select_kernel, launch, launch.frame.topk.blocks, 1, stream);
}

}  // namespace thinwire::compress::cuda
