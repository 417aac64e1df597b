#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/rows.hpp"
#include "thinwire/core/dtype.hpp"

/// A warp and its unit: 1024 elements as 8 rows of 128, of which a lane holds 4 columns.
namespace thinwire::compress::cuda {

constexpr unsigned all_lanes = 0xFFFFFFFFu;
constexpr int rows = 8;
constexpr int columns = 4;

using Tile = float[rows][columns];

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x & 31u); }

/// Element (row, column) of a lane is 4 neighbours' worth of one vector access. For whole units
/// whose gradients and values are aligned for it.
struct Packed {
  static constexpr bool vectors = true;
  static constexpr bool whole = true;  ///< units have all their elements
  static __device__ int element(int row, int column) { return 128 * row + 4 * lane_id() + column; }
  /// The group of 64 that element (row, any column) is in.
  static __device__ int group(int row, int /*column*/) { return 2 * row + (lane_id() >> 4); }
};

/// Element (row, column) is the lane's in a row of 32: any alignment, any length.
struct Strided {
  static constexpr bool vectors = false;
  static constexpr bool whole = false;
  static __device__ int element(int row, int column) { return 128 * row + 32 * column + lane_id(); }
  static __device__ int group(int row, int column) { return 2 * row + (column >> 1); }
};

/// The same for units that are whole.
struct StridedWhole : Strided {
  static constexpr bool whole = true;
};

template <typename Map, typename Body>
__device__ __forceinline__ void for_each(Body body) {
#pragma unroll
  for (int row = 0; row < rows; ++row) {
#pragma unroll
    for (int column = 0; column < columns; ++column) body(row, column);
  }
}

/// Where a unit's bytes and elements are.
struct Unit {
  std::int64_t source;
  std::int64_t residual;
  std::int64_t server;
  std::uint64_t scale_byte;  ///< topk: position of the first element in the run
  std::uint64_t value_byte;
  std::uint64_t tile_end;  ///< byte after the last value of the thread block's units
  std::int64_t out_shift;
  int elements;
  std::uint32_t piece;  ///< index of its row
};

/// Unit `index` of the section, which lies in `piece`.
template <typename Codec>
__device__ __forceinline__ Unit unit_of(const PieceRow& piece, std::uint32_t piece_index,
                                        std::uint32_t index, std::uint64_t tile_end = 0) {
  const std::int64_t skipped = static_cast<std::int64_t>(index - piece.first_unit);
  const std::int64_t from = skipped * unit_elements;
  const std::int64_t left = piece.elements - from;
  return {.source = piece.source + from,
          .residual = piece.residual < 0 ? -1 : piece.residual + from,
          .server = piece.server < 0 ? -1 : piece.server + from,
          .scale_byte = piece.scale_byte + 4 * Codec::blocks * static_cast<std::uint64_t>(skipped),
          .value_byte = piece.value_byte + Codec::value_bytes * static_cast<std::uint64_t>(skipped),
          .tile_end = tile_end,
          .out_shift = piece.out_shift,
          .elements = static_cast<int>(left < unit_elements ? left : unit_elements),
          .piece = piece_index};
}

/// The unit n further in the same piece.
template <typename Codec>
__device__ __forceinline__ void advance(Unit& unit, int n) {
  unit.source += unit_elements * n;
  if (unit.residual >= 0) unit.residual += unit_elements * n;
  if (unit.server >= 0) unit.server += unit_elements * n;
  unit.scale_byte += 4 * Codec::blocks * n;
  unit.value_byte += Codec::value_bytes * n;
}

/// A thread block's way through the units of its tile: warp w codes units w, w + 8, ..
class TileWalk {
 public:
  __device__ TileWalk(const ChunkView& chunk, const TileRow& tile)
      : pieces_{chunk.pieces + tile.piece}, tile_{tile} {}

  __device__ const TileRow& tile() const { return tile_; }
  __device__ bool done(unsigned k) const { return k >= tile_.units; }

  /// True if all units are whole and of one piece, so that they lie one after the other.
  __device__ bool is_even() const {
    const PieceRow& piece = pieces_[0];
    const std::int64_t end = tile_.first_unit - piece.first_unit + tile_.units;
    return end * unit_elements <= piece.elements;
  }

  /// The k-th unit of the tile. All lanes together.
  template <typename Codec>
  __device__ __forceinline__ Unit unit(unsigned k) const {
    const unsigned index = tile_.first_unit + k;
    // Pieces are not empty, so the unit's is at most k further; sentinels follow the last.
    const bool started = pieces_[lane_id()].first_unit <= index;
    const int piece = __popc(__ballot_sync(all_lanes, started)) - 1;
    return unit_of<Codec>(pieces_[piece], tile_.piece + static_cast<std::uint32_t>(piece), index,
                          tile_.value_end);
  }

 private:
  const PieceRow* pieces_;
  TileRow tile_;
};

// ---- elements in memory ----

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(BFloat16 value) { return from_bf16_bits(value.bits); }
__device__ inline float widen(Half value) { return __half2float(__ushort_as_half(value.bits)); }

__device__ inline std::uint16_t fp16_bits_of(float value) {
  if (!(value == value)) return canonical_nan_f16;
  return __half_as_ushort(__float2half_rn(fminf(fmaxf(value, -65504.0f), 65504.0f)));
}

template <typename T>
__device__ T narrow(float value);
template <>
__device__ inline float narrow<float>(float value) {
  return value == value ? value : __uint_as_float(canonical_nan_f32);
}
template <>
__device__ inline Half narrow<Half>(float value) {
  return Half{fp16_bits_of(value)};
}
template <>
__device__ inline BFloat16 narrow<BFloat16>(float value) {
  return BFloat16{bf16_bits(value)};
}

/// Four neighbours as one access.
template <typename T>
struct VectorOf {
  using type = uint2;
};
template <>
struct VectorOf<float> {
  using type = uint4;
};

template <typename T>
__device__ inline bool is_vector_aligned(const T* first) {
  return reinterpret_cast<std::uintptr_t>(first) % sizeof(typename VectorOf<T>::type) == 0;
}

/// Reads a unit's elements; those past its end are +0.
template <typename Map, typename T>
__device__ __forceinline__ void read_elements(const T* first, int elements, Tile& values) {
  if constexpr (Map::vectors) {
    using Vector = typename VectorOf<T>::type;
    const Vector* vectors = reinterpret_cast<const Vector*>(first) + lane_id();
    Vector loaded[rows];
#pragma unroll
    for (int row = 0; row < rows; ++row) loaded[row] = __ldcs(vectors + 32 * row);
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      const T* four = reinterpret_cast<const T*>(&loaded[row]);
#pragma unroll
      for (int column = 0; column < columns; ++column) values[row][column] = widen(four[column]);
    }
  } else {
    for_each<Map>([&](int row, int column) {
      const int at = Map::element(row, column);
      values[row][column] = Map::whole || at < elements ? widen(first[at]) : 0.0f;
    });
  }
}

// ---- sums over a warp ----

__device__ inline std::uint64_t warp_sum(std::uint64_t value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(all_lanes, value, distance);
  }
  return value;
}

// ---- digests ----

__device__ inline std::uint64_t digest_word(std::uint32_t word, std::uint64_t index) {
  return mix64(word | index << 32);
}

/// Index in the digest of the word at a byte of the slot.
__device__ inline std::uint64_t word_index(std::uint64_t byte) { return (byte - header_bytes) / 4; }

/// The words of a unit's values by ownership: a word belongs to the unit in which it starts.
struct OwnedWords {
  std::uint64_t first;  ///< byte of the slot
  std::uint64_t last;   ///< byte after the last word that lies wholly in the unit
  bool crosses;         ///< one more word, at `last`, ends in a later unit of the same tile

  __device__ OwnedWords(std::uint64_t begin, std::uint64_t end, std::uint64_t tile_end)
      : first{(begin + 3) / 4 * 4},
        last{end / 4 * 4},
        crosses{end % 4 != 0 && end / 4 * 4 >= begin && end / 4 * 4 + 4 <= tile_end} {}
};

/// Digest of the words of a slot in [first, last), a lane's share.
__device__ inline std::uint64_t digest_words(const std::byte* slot, std::uint64_t first,
                                             std::uint64_t last) {
  std::uint64_t sum = 0;
  for (std::uint64_t byte = first + 4 * static_cast<std::uint64_t>(lane_id()); byte < last;
       byte += 128) {
    sum +=
        digest_word(__ldcg(reinterpret_cast<const std::uint32_t*>(slot + byte)), word_index(byte));
  }
  return sum;
}

}  // namespace thinwire::compress::cuda
