#pragma once

#include "cuda/launch.hpp"
#include "cuda/unit.cuh"

/// What a block codec is to the kernels, in addition to what find_unit needs:
///   codec, blocks (of a whole unit), value_bytes (of a whole unit), value_alignment (for Packed),
///   may_cross (values may start at any byte, so units may share a word of the payload);
///   coded_groups(live): the groups that are coded when `live` ones hold an input that is not 0;
///   encode<Map>(x, coded, to, digest): codes x, leaves x - v there, adds the digest of what it
///     wrote, returns the groups that are in finite blocks;
///   load<Map>(from): loads a unit's bytes and does nothing else, so that loads can run ahead;
///   digest_scales<Map>(raws, source, digest): adds the digest of what read() and decode() leave to
///     it of units from source(0), source(1), ..;
///   read<Map>(raw, from, digest, use): calls use(row, column, v) for every element;
///   decode<Map>(raw, from, digest, out_scale, out): writes fl(v * out_scale);
///   peers_at_once: units that an owner loads before it adds them up.
namespace thinwire::compress::cuda {

/// Where a unit is encoded to.
struct UnitTarget {
  std::byte* slot;
  std::uint64_t scale_byte;
  std::uint64_t value_byte;
  std::uint64_t tile_end;
  int elements;
  CodecSettings settings;
};

/// Where a unit is decoded from.
struct UnitSource {
  const std::byte* slot;
  std::uint64_t scale_byte;
  std::uint64_t value_byte;
  std::uint64_t tile_end;
  int elements;
};

template <typename Map, typename T>
__device__ __forceinline__ void store_row(T* first, int elements, int row,
                                          const T (&values)[columns]) {
  if constexpr (Map::vectors) {
    using Vector = typename VectorOf<T>::type;
    Vector packed;
    T* four = reinterpret_cast<T*>(&packed);
#pragma unroll
    for (int column = 0; column < columns; ++column) four[column] = values[column];
    __stcs(reinterpret_cast<Vector*>(first) + 32 * row + lane_id(), packed);
  } else {
#pragma unroll
    for (int column = 0; column < columns; ++column) {
      const int at = Map::element(row, column);
      if (Map::whole || at < elements) first[at] = values[column];
    }
  }
}

/// Digest of the words of values that a unit of a checked slot owns, for units that are not Packed.
__device__ inline std::uint64_t digest_owned(const UnitSource& from, std::uint64_t bytes) {
  const OwnedWords words{from.value_byte, from.value_byte + bytes, from.tile_end};
  return digest_words(from.slot, words.first, words.last + (words.crosses ? 4 : 0));
}

/// decode() of a codec in terms of its read().
template <typename Codec, typename Map, typename T>
__device__ __forceinline__ void decode_elements(const typename Codec::template Raw<Map>& raw,
                                                const UnitSource& from, std::uint64_t& digest,
                                                float out_scale, T* out) {
  Tile values;
  Codec::template read<Map>(raw, from, digest,
                            [&](int row, int column, float v) { values[row][column] = v; });
#pragma unroll
  for (int row = 0; row < rows; ++row) {
    T narrowed[columns];
#pragma unroll
    for (int column = 0; column < columns; ++column) {
      narrowed[column] = narrow<T>(values[row][column] * out_scale);
    }
    store_row<Map>(out, from.elements, row, narrowed);
  }
}

}  // namespace thinwire::compress::cuda
