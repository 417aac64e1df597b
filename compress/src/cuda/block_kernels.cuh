#pragma once

#include "cuda/block_codec.cuh"
#include "cuda/finish.cuh"
#include "cuda/launch.hpp"
#include "cuda/try.hpp"

/// The verbs of the block codecs. One warp codes one unit in registers; the thread blocks meet only
/// to add up digests. Compiled once a codec (block_kernels_*.cu).
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
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t bits =
          __float_as_uint(input[row][2 * half]) | __float_as_uint(input[row][2 * half + 1]);
      if (bits << 1 != 0) live |= 1u << Map::group(row, 2 * half);
    }
  }
  return __reduce_or_sync(all_lanes, live);
}

struct ResidualPlace {
  const float* committed;  ///< null without feedback
  float* next;
};

/// Writes what is left of x to the next residual; groups that are not coded keep the committed one.
template <typename Map>
__device__ __forceinline__ void store_residual(const ResidualPlace& place, int elements,
                                               std::uint32_t coded, const Tile& left) {
  const std::uint32_t all = (2u << ((elements - 1) / 64)) - 1u;
  const bool in_place = place.committed == place.next;
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    if ((coded & all) == all) {
      store_row<Map>(place.next, elements, row, left[row]);
      continue;
    }
#pragma unroll
    for (int column = 0; column < columns; ++column) {
      const int at = Map::element(row, column);
      if (at >= elements) continue;
      if ((coded >> Map::group(row, column) & 1u) != 0) {
        place.next[at] = left[row][column];
      } else if (!in_place) {
        place.next[at] = place.committed[at];
      }
    }
  }
}

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

template <typename Map>
__device__ __forceinline__ void add_residual(const ResidualPlace& residual, int elements, Tile& x) {
  if (residual.committed == nullptr) return;
  Tile e;
  read_elements<Map>(residual.committed, elements, e);
  for_each<Map>([&](int row, int column) { x[row][column] += e[row][column]; });
}

__device__ inline ResidualPlace residual_place(const ResidualVersions& versions, std::uint32_t now,
                                               std::int64_t first) {
  if (first < 0) return {nullptr, nullptr};
  return {versions.base[now] + first, versions.base[now ^ 1u] + first};
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

template <typename Codec, typename Map, typename T>
__device__ __forceinline__ Coded encode_unit(const EncodeLaunch& launch, const Unit& unit,
                                             std::byte* slot) {
  const T* first = static_cast<const T*>(launch.gradients) + unit.source;
  const ResidualPlace residual =
      residual_place(launch.worker, launch.state->worker_version, unit.residual);
  const float inv = scale_or_one(launch.inv_scale);
  Tile x;
  read_elements<Map>(first, unit.elements, x);
  const std::uint32_t live = live_groups<Map>(x);
  for_each<Map>([&](int row, int column) {
    x[row][column] *= inv;
    if (!Map::vectors && Map::element(row, column) >= unit.elements) x[row][column] = 0.0f;
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
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<Codec>(k);
    if (is_packed<Codec>(unit, unit.value_byte, static_cast<const T*>(launch.gradients))) {
      sum += encode_unit<Codec, Packed, T>(launch, unit, slot);
    } else {
      sum += encode_unit<Codec, Strided, T>(launch, unit, slot);
    }
  }
  sum.digest += crossing_words<Codec>(walk, false, slot);
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
  Unit unit = walk.unit<Codec>(0);
  if (walk.is_even() &&
      is_packed<Codec>(unit, unit.value_byte, static_cast<const T*>(launch.gradients))) {
    advance<Codec>(unit, threadIdx.x / 32);
    for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
      coded += encode_unit<Codec, Packed, T>(launch, unit, slot);
      advance<Codec>(unit, warps_per_tile);
    }
  } else {
    coded = encode_uneven_tile<Codec, T>(launch, walk, slot);
  }
  if (launch.writes_pads) {
    write_pads(frame.chunk.pads[static_cast<int>(Phase::reduce)], 0, frame.chunk.shards,
               launch.slots, slot_bytes);
  }
  if (arrive(share, frame, tile.shard, coded.digest, coded.flags)) finish_encode(launch);
}

// ---- reduce ----

/// The sum of the peers in rank order, from +0, times 1 / N.
template <typename Codec, typename Map>
__device__ __forceinline__ void average(const Inputs& inputs, const Unit& unit, Tile& mean,
                                        std::uint64_t& digest) {
  for_each<Map>([&](int row, int column) { mean[row][column] = 0.0f; });
  constexpr int batch = Codec::peers_at_once;
  for (int first = 0; first < inputs.ranks; first += batch) {
    typename Codec::template Raw<Map> raws[batch];
    const auto source = [&](int i) -> UnitSource {
      return {inputs.slots + (first + i) * inputs.slot_bytes, unit.scale_byte, unit.value_byte,
              unit.tile_end, unit.elements};
    };
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + i < inputs.ranks) raws[i] = Codec::template load<Map>(source(i));
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      if (first + i >= inputs.ranks) break;
      Codec::template read<Map>(raws[i], source(i), digest,
                                [&](int row, int column, float v) { mean[row][column] += v; });
    }
  }
  for_each<Map>([&](int row, int column) {
    // Padding of a slot may decode to anything.
    const bool exists = Map::vectors || Map::element(row, column) < unit.elements;
    mean[row][column] = exists ? mean[row][column] * inputs.one_over_ranks : 0.0f;
  });
}

template <typename Codec, typename Map>
__device__ __forceinline__ Coded reduce_encode_unit(const ReduceEncodeLaunch& launch,
                                                    const Unit& unit) {
  Coded coded;
  const ResidualPlace residual =
      residual_place(launch.server, launch.state->server_version, unit.server);
  Tile e;
  if (residual.committed != nullptr) read_elements<Map>(residual.committed, unit.elements, e);
  Tile x;
  average<Codec, Map>(launch.inputs, unit, x, coded.digest_in);
  const std::uint32_t live = live_groups<Map>(x);
  if (residual.committed != nullptr) {
    for_each<Map>([&](int row, int column) { x[row][column] += e[row][column]; });
  }
  const UnitTarget to{launch.slot_out,
                      unit.scale_byte + unit.out_shift,
                      unit.value_byte + unit.out_shift,
                      unit.tile_end + unit.out_shift,
                      unit.elements,
                      launch.settings};
  coded.flags = encode_tile<Codec, Map>(x, live, residual, to, coded.digest);
  return coded;
}

template <typename Codec>
__device__ __noinline__ Coded reduce_encode_uneven_tile(const ReduceEncodeLaunch& launch,
                                                        const TileWalk& walk) {
  Coded sum;
  for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
    const Unit unit = walk.unit<Codec>(k);
    if (is_packed<Codec>(unit, unit.value_byte)) {
      sum += reduce_encode_unit<Codec, Packed>(launch, unit);
    } else {
      sum += reduce_encode_unit<Codec, Strided>(launch, unit);
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
  const TileWalk walk{frame.chunk, frame.chunk.tiles[launch.first_tile + blockIdx.x]};
  Coded coded;
  Unit unit = walk.unit<Codec>(0);
  if (walk.is_even() && is_packed<Codec>(unit, unit.value_byte)) {
    advance<Codec>(unit, threadIdx.x / 32);
    for (unsigned k = threadIdx.x / 32; !walk.done(k); k += warps_per_tile) {
      coded += reduce_encode_unit<Codec, Packed>(launch, unit);
      advance<Codec>(unit, warps_per_tile);
    }
  } else {
    coded = reduce_encode_uneven_tile<Codec>(launch, walk);
  }
  if (launch.writes_pads) {
    write_pads(frame.chunk.pads[static_cast<int>(Phase::gather)], launch.shard, launch.shard + 1,
               launch.slot_out, 0);
  }
  if (arrive(share, frame, place_in, coded.digest_in, coded.flags, coded.digest)) {
    finish_reduce_encode(launch);
  }
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
  if (arrive(share, frame, place_in, digest, 0)) finish_reduce(launch);
}

// ---- decode ----

__device__ __forceinline__ UnitSource gathered_source(const Unit& unit, const std::byte* slot) {
  return {slot, unit.scale_byte + unit.out_shift, unit.value_byte + unit.out_shift,
          unit.tile_end + unit.out_shift, unit.elements};
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
      Codec::template decode<Packed>(Codec::template load<Packed>(from), from, digest, out_scale,
                                     out + unit.source);
    } else {
      Codec::template decode<Strided>(Codec::template load<Strided>(from), from, digest, out_scale,
                                      out + unit.source);
    }
  }
  return digest;
}

/// The bytes of the next unit are on their way while one is written.
template <typename Codec, typename T>
__device__ __forceinline__ std::uint64_t decode_even_tile(const DecodeLaunch& launch,
                                                          const TileWalk& walk, Unit unit,
                                                          const std::byte* slot) {
  const float out_scale = scale_or_one(launch.out_scale);
  std::uint64_t digest = 0;
  unsigned k = threadIdx.x / 32;
  if (walk.done(k)) return 0;
  advance<Codec>(unit, threadIdx.x / 32);
  auto raw = Codec::template load<Packed>(gathered_source(unit, slot));
  for (;;) {
    const Unit now = unit;
    const auto raw_now = raw;
    k += warps_per_tile;
    advance<Codec>(unit, warps_per_tile);
    const bool last = walk.done(k);
    if (!last) raw = Codec::template load<Packed>(gathered_source(unit, slot));
    Codec::template decode<Packed>(raw_now, gathered_source(now, slot), digest, out_scale,
                                   static_cast<T*>(launch.gradients) + now.source);
    if (last) return digest;
  }
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
  if (arrive(share, frame, tile.shard, digest, 0)) finish_decode(launch);
}

// ---- launches ----

template <typename Launch>
void start(void (*kernel)(Launch), const Launch& launch, std::uint32_t tiles, cudaStream_t stream) {
  kernel<<<tiles, threads_per_tile, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

template <typename Codec>
class BlockLauncherOf final : public BlockLauncher {
 public:
  void encode(const EncodeLaunch& launch, DType dtype, std::uint32_t tiles,
              cudaStream_t stream) const override {
    visit_dtype(dtype, [&](auto tag) {
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
  void decode(const DecodeLaunch& launch, DType dtype, std::uint32_t tiles,
              cudaStream_t stream) const override {
    visit_dtype(dtype, [&](auto tag) {
      start(decode_kernel<Codec, typename decltype(tag)::type>, launch, tiles, stream);
    });
  }
};

}  // namespace thinwire::compress::cuda
