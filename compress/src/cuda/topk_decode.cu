#include "cuda/block_kernels.cuh"
#include "cuda/topk_kernels.hpp"
#include "cuda/topk_select.cuh"

/// topk on the way back: of owners to everybody, and of peers to whoever reduces.
namespace thinwire::compress::cuda {
namespace {

template <typename Map, typename T>
__device__ __forceinline__ void write_sums(const float* sums, const Unit& unit, float out_scale,
                                           T* out) {
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    T values[columns];
#pragma unroll
    for (int column = 0; column < columns; ++column) {
      values[column] = narrow<T>(sums[Map::element(row, column)] * out_scale);
    }
    store_row<Map>(out + unit.source, unit.elements, row, values);
  }
}

template <typename T>
__global__ void __launch_bounds__(threads_per_tile, decode_tiles_per_sm)
    decode_kernel(const __grid_constant__ DecodeLaunch launch) {
  __shared__ BlockShare share;
  __shared__ float sums[warps_per_tile][unit_elements];
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  __shared__ TopkRow row;
  copy_row(row, frame.topk.rows[tile.shard]);
  const std::byte* slot =
      launch.slots + tile.shard * frame.chunk.slot_bytes[static_cast<int>(Phase::gather)];
  const TopkShare part{launch.first_tile + blockIdx.x - row.first_tile, row.tiles};
  check_entries(frame, row, Phase::gather, slot, static_cast<int>(tile.shard), tile.shard, part);
  const std::uint64_t digest = digest_run(row, Phase::gather, slot, part);

  const Inputs owner{slot, 0, 1, 1.0f};
  const float out_scale = scale_or_one(launch.out_scale);
  T* out = static_cast<T*>(launch.gradients);
  const TileWalk walk{frame.chunk, tile};
  float* own_sums = sums[threadIdx.x / 32];
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<TopkWalk>(k);
    sum_entries(row, Phase::gather, owner, position_of(unit), unit.elements, own_sums);
    if (is_packed<TopkWalk>(unit, 0, out)) {
      write_sums<Packed>(own_sums, unit, out_scale, out);
    } else {
      write_sums<Strided>(own_sums, unit, out_scale, out);
    }
    __syncwarp();
  }
  const HeaderCheck check = check_owner_early(frame, slot, tile);
  gather(share, frame, {tile.arrival, tile.shard, digest + check.digest, check.flags});
}

__global__ void __launch_bounds__(threads_per_tile, reduce_tiles_per_sm)
    reduce_kernel(const __grid_constant__ ReduceLaunch launch) {
  __shared__ BlockShare share;
  __shared__ float sums[warps_per_tile][unit_elements];
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  __shared__ TopkRow row;
  copy_row(row, frame.topk.rows[launch.shard]);
  const TopkShare part{blockIdx.x, row.tiles};
  std::uint64_t digest = 0;
  for (int peer = 0; peer < launch.inputs.ranks; ++peer) {
    const std::byte* slot = launch.inputs.slots + peer * launch.inputs.slot_bytes;
    digest += digest_run(row, Phase::reduce, slot, part);
    check_entries(frame, row, Phase::reduce, slot, peer, launch.shard, part);
  }
  const float out_scale = scale_or_one(launch.out_scale);
  const TileWalk walk{frame.chunk, tile};
  float* own_sums = sums[threadIdx.x / 32];
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<TopkWalk>(k);
    sum_entries(row, Phase::reduce, launch.inputs, position_of(unit), unit.elements, own_sums);
    const std::int64_t first = unit.source - launch.out_origin;
    for (int i = lane_id(); i < unit.elements; i += 32) {
      write_element(launch.out, launch.dtype, first + i,
                    own_sums[i] * launch.inputs.one_over_ranks * out_scale);
    }
    __syncwarp();
  }
  const HeaderCheck check = check_inputs_early(frame, launch.inputs, launch.shard, tile);
  gather(share, frame, {tile.arrival, launch.shard, digest + check.digest, check.flags});
}

}  // namespace

void topk_decode(const DecodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream) {
  visit_dtype(launch.dtype, [&](auto tag) {
    start(decode_kernel<typename decltype(tag)::type>, launch, tiles, stream);
  });
}

void topk_reduce(const ReduceLaunch& launch, std::uint32_t tiles, cudaStream_t stream) {
  start(reduce_kernel, launch, tiles, stream);
}

}  // namespace thinwire::compress::cuda
