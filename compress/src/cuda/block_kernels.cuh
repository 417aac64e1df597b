#pragma once

#include "cuda/block_codec.cuh"
#include "cuda/finish.cuh"
#include "cuda/launch.hpp"
#include "cuda/residual.cuh"
#include "cuda/try.hpp"

/// The verbs of the block codecs. One warp codes one unit in registers; the thread blocks meet only
/// to add up digests. Compiled once a codec (block_kernels_*.cu).
namespace thinwire::compress::cuda {

/// Codes x = fl(y + e): y is `x` on the way in.
template <typename Codec, typename Map>
__device__ __forceinline__ std::uint32_t encode_tile(Tile& x, std::uint32_t live,
                                                     const ResidualPlace& residual,
                                                     const UnitTarget& to, std::uint64_t& digest) {
  const std::uint32_t coded = Codec::coded_groups(live);
  const std::uint32_t finite = Codec::template encode<Map>(x, coded, to, digest);
  if (residual.committed != nullptr) {
    store_residual<Map>(residual, to.elements, coded & finite, x);
  }
  if (finite == 0xFFFFu) return 0;
  return to.settings.zero_non_finite ? flag_zeroed : flag_non_finite;
}

/// Words at the ends of units whose last bytes another warp wrote: digested once all have.
template <typename Codec>
__device__ __forceinline__ std::uint64_t crossing_words(const TileWalk& walk, bool out,
                                                        const std::byte* slot) {
  std::uint64_t digest = 0;
  if constexpr (Codec::may_cross) {
    __syncthreads();
    for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
      const Unit unit = walk.unit<Codec>(k);
      const std::uint64_t shift = out ? unit.out_shift : 0;
      const std::uint64_t begin = unit.value_byte + shift;
      const OwnedWords words{begin, begin + Codec::bytes_of(unit.elements), unit.tile_end + shift};
      if (words.crosses) digest += digest_words(slot, words.last, words.last + 4);
    }
  }
  return digest;
}

/// What coding a unit came to.
struct Coded {
  std::uint32_t flags = 0;
  std::uint64_t digest = 0;     ///< of what was written
  std::uint64_t digest_in = 0;  ///< of what was read

  __device__ Coded& operator+=(const Coded& other) {
    flags |= other.flags;
    digest += other.digest;
    digest_in += other.digest_in;
    return *this;
  }
};

/// True if a whole unit's tensor and values are aligned for vector accesses.
template <typename Codec, typename T>
__device__ __forceinline__ bool is_packed(const Unit& unit, std::uint64_t value_byte,
                                          const T* tensor) {
  return unit.elements == unit_elements && is_vector_aligned(tensor + unit.source) &&
         value_byte % Codec::value_alignment == 0;
}
template <typename Codec>
__device__ __forceinline__ bool is_packed(const Unit& unit, std::uint64_t value_byte) {
  return unit.elements == unit_elements && value_byte % Codec::value_alignment == 0;
}

// ---- encode ----

/// What is looked up once a thread block.
struct WorkerValues {
  ResidualPlace versions;
  float inv_scale;

  __device__ explicit WorkerValues(const EncodeLaunch& launch)
      : versions{versions_of(launch.worker, launch.state->worker_version)},
        inv_scale{scale_or_one(launch.inv_scale)} {}
};

template <typename Codec, typename Map, typename T>
__device__ __forceinline__ Coded encode_unit(const EncodeLaunch& launch, const WorkerValues& worker,
                                             const Unit& unit, std::byte* slot) {
  const T* first = static_cast<const T*>(launch.gradients) + unit.source;
  const ResidualPlace residual = residual_place(worker.versions, unit.residual);
  Tile x;
  read_elements<Map>(first, unit.elements, x);
  const std::uint32_t live = live_groups<Map>(x);
  for_each<Map>([&](int row, int column) {
    x[row][column] *= worker.inv_scale;
    if (!Map::whole && Map::element(row, column) >= unit.elements) x[row][column] = 0.0f;
  });
  add_residual<Map>(residual, unit.elements, x);
  const UnitTarget to{slot,          unit.scale_byte, unit.value_byte,
                      unit.tile_end, unit.elements,   launch.settings};
  Coded coded;
  coded.flags = encode_tile<Codec, Map>(x, live, residual, to, coded.digest);
  return coded;
}

/// Apart, so that the registers of the rare case do not burden the common one.
template <typename Codec, typename T>
__device__ __noinline__ Coded encode_uneven_tile(const EncodeLaunch& launch, const TileWalk& walk,
                                                 std::byte* slot) {
  Coded sum;
  const WorkerValues worker{launch};
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<Codec>(k);
    if (is_packed<Codec>(unit, unit.value_byte, static_cast<const T*>(launch.gradients))) {
      sum += encode_unit<Codec, Packed, T>(launch, worker, unit, slot);
    } else {
      sum += encode_unit<Codec, Strided, T>(launch, worker, unit, slot);
    }
  }
  sum.digest += crossing_words<Codec>(walk, false, slot);
  return sum;
}

template <typename Codec, typename Map, typename T>
__device__ __forceinline__ Coded encode_even_tile(const EncodeLaunch& launch, const TileWalk& walk,
                                                  Unit unit, std::byte* slot) {
  Coded sum;
  const WorkerValues worker{launch};
  advance<Codec>(unit, threadIdx.x / 32);
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    sum += encode_unit<Codec, Map, T>(launch, worker, unit, slot);
    advance<Codec>(unit, warps_per_tile);
  }
  if constexpr (!Map::vectors) sum.digest += crossing_words<Codec>(walk, false, slot);
  return sum;
}

template <typename Codec, typename T>
__global__ void __launch_bounds__(threads_per_tile, encode_tiles_per_sm)
    encode_kernel(const __grid_constant__ EncodeLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  const std::uint64_t slot_bytes = frame.chunk.slot_bytes[static_cast<int>(Phase::reduce)];
  std::byte* slot = launch.slots + tile.shard * slot_bytes;
  const TileWalk walk{frame.chunk, tile};
  Coded coded;
  const Unit first = walk.unit<Codec>(0);
  const bool even = walk.is_even();
  const bool packed =
      even && is_packed<Codec>(first, first.value_byte, static_cast<const T*>(launch.gradients));
  if (packed) {
    coded = encode_even_tile<Codec, Packed, T>(launch, walk, first, slot);
  } else if (!even) {
    coded = encode_uneven_tile<Codec, T>(launch, walk, slot);
  } else {
    coded = encode_even_tile<Codec, StridedWhole, T>(launch, walk, first, slot);
  }
  if (launch.writes_pads) {
    write_pads(frame.chunk.pads[static_cast<int>(Phase::reduce)], 0, frame.chunk.shards,
               launch.slots, slot_bytes);
  }
  gather(share, frame, {tile.arrival, tile.shard, coded.digest, coded.flags});
}

// ---- reduce ----

/// Adds `count` peers from `first` on, whose bytes are loaded together.
template <typename Codec, typename Map, int count>
__device__ __forceinline__ void add_peers(const Inputs& inputs, int first, const Unit& unit,
                                          Tile& sum, std::uint64_t& digest) {
  typename Codec::template Raw<Map> raws[count];
  const auto source = [&](int i) -> UnitSource {
    return {inputs.slots + (first + i) * inputs.slot_bytes, unit.scale_byte, unit.value_byte,
            unit.tile_end, unit.elements};
  };
#pragma unroll
  for (int i = 0; i < count; ++i) raws[i] = Codec::template load<Map>(source(i));
  Codec::template digest_scales<Map>(raws, source, digest);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    Codec::template read<Map>(raws[i], source(i), digest,
                              [&](int row, int column, float v) { sum[row][column] += v; });
  }
}

/// The headers of N peers, by the thread block that begins their shard.
__device__ inline HeaderCheck check_inputs_early(const VerbFrame& frame, const Inputs& inputs,
                                                 unsigned shard, const TileRow& tile) {
  if (tile.begins == 0) return {};
  return check_headers(frame, Phase::reduce, shard, inputs.slots, inputs.slot_bytes, 0,
                       inputs.ranks);
}

/// The sum of the peers in rank order, from +0, times 1 / N.
template <typename Codec, typename Map>
__device__ __forceinline__ void average(const Inputs& inputs, const Unit& unit, Tile& mean,
                                        std::uint64_t& digest) {
  for_each<Map>([&](int row, int column) { mean[row][column] = 0.0f; });
  int peer = 0;
  for (; peer + Codec::peers_at_once <= inputs.ranks; peer += Codec::peers_at_once) {
    add_peers<Codec, Map, Codec::peers_at_once>(inputs, peer, unit, mean, digest);
  }
  for (; peer < inputs.ranks; ++peer) add_peers<Codec, Map, 1>(inputs, peer, unit, mean, digest);
  for_each<Map>([&](int row, int column) {
    // Padding of a slot may decode to anything.
    const bool exists = Map::whole || Map::element(row, column) < unit.elements;
    mean[row][column] = exists ? mean[row][column] * inputs.one_over_ranks : 0.0f;
  });
}

template <typename Codec, typename Map>
__device__ __forceinline__ Coded reduce_encode_unit(const ReduceEncodeLaunch& launch,
                                                    const ResidualPlace& server, const Unit& unit) {
  Coded coded;
  const ResidualPlace residual = residual_place(server, unit.server);
  Tile x;
  average<Codec, Map>(launch.inputs, unit, x, coded.digest_in);
  const std::uint32_t live = live_groups<Map>(x);
  add_residual<Map>(residual, unit.elements, x);
  const UnitTarget to{launch.slot_out,
                      unit.scale_byte + unit.out_shift,
                      unit.value_byte + unit.out_shift,
                      unit.tile_end + unit.out_shift,
                      unit.elements,
                      launch.settings};
  coded.flags = encode_tile<Codec, Map>(x, live, residual, to, coded.digest);
  return coded;
}

__device__ __forceinline__ void prefetch_line(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

/// Brings what a later unit of the warp will read near, without a register: a whole unit's residual
/// is a line a lane.
__device__ __forceinline__ void prefetch_owner_unit(const ReduceEncodeLaunch& launch,
                                                    const ResidualPlace& server, const Unit& unit) {
  if (unit.server >= 0) prefetch_line(server.committed + unit.server + 32 * lane_id());
  if (lane_id() < launch.inputs.ranks) {
    const std::byte* slot = launch.inputs.slots + lane_id() * launch.inputs.slot_bytes;
    prefetch_line(slot + unit.value_byte);
    prefetch_line(slot + unit.scale_byte);
  }
}

template <typename Codec>
__device__ __noinline__ Coded reduce_encode_uneven_tile(const ReduceEncodeLaunch& launch,
                                                        const TileWalk& walk) {
  Coded sum;
  const ResidualPlace server = versions_of(launch.server, launch.state->server_version);
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<Codec>(k);
    if (is_packed<Codec>(unit, unit.value_byte)) {
      sum += reduce_encode_unit<Codec, Packed>(launch, server, unit);
    } else {
      sum += reduce_encode_unit<Codec, Strided>(launch, server, unit);
    }
  }
  sum.digest += crossing_words<Codec>(walk, true, launch.slot_out);
  return sum;
}

template <typename Codec>
__global__ void __launch_bounds__(threads_per_tile, reduce_tiles_per_sm)
    reduce_encode_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  const TileWalk walk{frame.chunk, tile};
  Coded coded;
  Unit unit = walk.unit<Codec>(0);
  if (walk.is_even() && is_packed<Codec>(unit, unit.value_byte)) {
    const ResidualPlace server = versions_of(launch.server, launch.state->server_version);
    advance<Codec>(unit, threadIdx.x / 32);
    for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
      const Unit now = unit;
      advance<Codec>(unit, warps_per_tile);
      if (!walk.done(k + warps_per_tile)) prefetch_owner_unit(launch, server, unit);
      coded += reduce_encode_unit<Codec, Packed>(launch, server, now);
    }
  } else {
    coded = reduce_encode_uneven_tile<Codec>(launch, walk);
  }
  if (launch.writes_pads) {
    write_pads(frame.chunk.pads[static_cast<int>(Phase::gather)], launch.shard, launch.shard + 1,
               launch.slot_out, 0);
  }
  const HeaderCheck check = check_inputs_early(frame, launch.inputs, launch.shard, tile);
  gather<true>(
      share, frame,
      {tile.arrival, launch.shard, coded.digest_in + check.digest, coded.flags | check.flags},
      coded.digest);
}

/// For reduce-scatter: the dtype is looked up as values are stored.
template <typename Codec>
__global__ void __launch_bounds__(threads_per_tile, reduce_tiles_per_sm)
    reduce_kernel(const __grid_constant__ ReduceLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  const TileWalk walk{frame.chunk, tile};
  const float out_scale = scale_or_one(launch.out_scale);
  std::uint64_t digest = 0;
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<Codec>(k);
    Tile mean;
    average<Codec, Strided>(launch.inputs, unit, mean, digest);
    const std::int64_t first = unit.source - launch.out_origin;
    for_each<Strided>([&](int row, int column) {
      const int at = Strided::element(row, column);
      if (at >= unit.elements) return;
      write_element(launch.out, launch.dtype, first + at, mean[row][column] * out_scale);
    });
  }
  const HeaderCheck check = check_inputs_early(frame, launch.inputs, launch.shard, tile);
  gather(share, frame, {tile.arrival, launch.shard, digest + check.digest, check.flags});
}

// ---- decode ----

/// The header of an owner's slot, by the thread block that begins it.
__device__ inline HeaderCheck check_owner_early(const VerbFrame& frame, const std::byte* slot,
                                                const TileRow& tile) {
  if (tile.begins == 0) return {};
  return check_headers(frame, Phase::gather, tile.shard, slot, 0, static_cast<int>(tile.shard), 1);
}

__device__ __forceinline__ UnitSource gathered_source(const Unit& unit, const std::byte* slot) {
  return {slot, unit.scale_byte + unit.out_shift, unit.value_byte + unit.out_shift,
          unit.tile_end + unit.out_shift, unit.elements};
}

template <typename Codec, typename Map, typename T>
__device__ __forceinline__ void decode_unit(const typename Codec::template Raw<Map>& raw,
                                            const UnitSource& from, std::uint64_t& digest,
                                            float out_scale, T* out) {
  const typename Codec::template Raw<Map> raws[] = {raw};
  Codec::template digest_scales<Map>(
      raws, [&](int) { return from; }, digest);
  Codec::template decode<Map>(raw, from, digest, out_scale, out);
}

template <typename Codec, typename T>
__device__ __noinline__ std::uint64_t decode_uneven_tile(const DecodeLaunch& launch,
                                                         const TileWalk& walk,
                                                         const std::byte* slot) {
  const float out_scale = scale_or_one(launch.out_scale);
  T* const out = static_cast<T*>(launch.gradients);
  std::uint64_t digest = 0;
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<Codec>(k);
    const UnitSource from = gathered_source(unit, slot);
    if (is_packed<Codec>(unit, from.value_byte, out)) {
      decode_unit<Codec, Packed>(Codec::template load<Packed>(from), from, digest, out_scale,
                                 out + unit.source);
    } else {
      decode_unit<Codec, Strided>(Codec::template load<Strided>(from), from, digest, out_scale,
                                  out + unit.source);
    }
  }
  return digest;
}

template <typename Codec, typename T>
__device__ __forceinline__ std::uint64_t decode_even_tile(const DecodeLaunch& launch,
                                                          const TileWalk& walk, Unit unit,
                                                          const std::byte* slot) {
  const float out_scale = scale_or_one(launch.out_scale);
  std::uint64_t digest = 0;
  unsigned k = threadIdx.x / 32;
  if (walk.done(k)) return digest;
  advance<Codec>(unit, static_cast<int>(k));
  auto ahead = Codec::template load<Packed>(gathered_source(unit, slot));
  while (!walk.done(k)) {
    const auto raw = ahead;
    const Unit now = unit;
    k += warps_per_tile;
    advance<Codec>(unit, warps_per_tile);
    if (!walk.done(k)) ahead = Codec::template load<Packed>(gathered_source(unit, slot));
    decode_unit<Codec, Packed>(raw, gathered_source(now, slot), digest, out_scale,
                               static_cast<T*>(launch.gradients) + now.source);
  }
  return digest;
}

template <typename Codec, typename T>
__global__ void __launch_bounds__(threads_per_tile, decode_tiles_per_sm)
    decode_kernel(const __grid_constant__ DecodeLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const TileRow tile = frame.chunk.tiles[launch.first_tile + blockIdx.x];
  const std::byte* slot =
      launch.slots + tile.shard * frame.chunk.slot_bytes[static_cast<int>(Phase::gather)];
  const TileWalk walk{frame.chunk, tile};
  const Unit unit = walk.unit<Codec>(0);
  const std::uint64_t digest =
      walk.is_even() && is_packed<Codec>(unit, unit.value_byte + unit.out_shift,
                                         static_cast<const T*>(launch.gradients))
          ? decode_even_tile<Codec, T>(launch, walk, unit, slot)
          : decode_uneven_tile<Codec, T>(launch, walk, slot);
  const HeaderCheck check = check_owner_early(frame, slot, tile);
  gather(share, frame, {tile.arrival, tile.shard, digest + check.digest, check.flags});
}

// ---- launches ----

template <typename Launch>
void start(void (*kernel)(Launch), const Launch& launch, std::uint32_t tiles, cudaStream_t stream) {
  kernel<<<tiles, threads_per_tile, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

template <typename Codec>
class BlockLauncherOf final : public SectionLauncher {
 public:
  void encode(const EncodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream) const override {
    visit_dtype(launch.dtype, [&](auto tag) {
      start(encode_kernel<Codec, typename decltype(tag)::type>, launch, tiles, stream);
    });
  }
  void reduce_encode(const ReduceEncodeLaunch& launch, std::uint32_t tiles,
                     cudaStream_t stream) const override {
    start(reduce_encode_kernel<Codec>, launch, tiles, stream);
  }
  void reduce(const ReduceLaunch& launch, std::uint32_t tiles, cudaStream_t stream) const override {
    start(reduce_kernel<Codec>, launch, tiles, stream);
  }
  void decode(const DecodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream) const override {
    visit_dtype(launch.dtype, [&](auto tag) {
      start(decode_kernel<Codec, typename decltype(tag)::type>, launch, tiles, stream);
    });
  }
};

}  // namespace thinwire::compress::cuda
