#pragma once

#include "block_rules.hpp"
#include "cuda/block_codec.cuh"

namespace thinwire::compress::cuda {

/// 1.5 * 2^23: adding it rounds to an integer, to nearest even, in the low bits of the sum.
constexpr float round_magic = 12582912.0f;

/// int8 and int4: blocks of whole rows, an fp32 scale each, zero kept for a whole block. `Values`
/// says how the codes, two's complement, lie in memory.
template <typename Values>
struct Quantised {
  static constexpr Codec codec = Values::codec;
  static constexpr int blocks = rows / Values::rows_per_block;
  static constexpr std::uint64_t value_bytes = 1024 / Values::codes_per_byte;
  static constexpr std::uint64_t value_alignment = 4;
  static constexpr bool may_cross = true;

  static __device__ std::uint64_t bytes_of(int elements) {
    return static_cast<std::uint64_t>((elements + Values::codes_per_byte - 1) /
                                      Values::codes_per_byte);
  }

  static __device__ std::uint32_t coded_groups(std::uint32_t live) {
    std::uint32_t coded = 0;
#pragma unroll
    for (int block = 0; block < blocks; ++block) {
      if ((live & groups_of(block)) != 0) coded |= groups_of(block);
    }
    return coded;
  }

  template <typename Map>
  static __device__ __forceinline__ std::uint32_t encode(Tile& x, std::uint32_t coded,
                                                         const UnitTarget& to,
                                                         std::uint64_t& digest) {
    constexpr float most = Values::most;
    std::uint32_t finite = 0;
    std::uint32_t own_scale = 0;  // of block lane_id()
    std::uint32_t codes[rows];    // of the lane's four columns, the first lowest
#pragma unroll
    for (int block = 0; block < blocks; ++block) {
      std::uint32_t bits = 0;
#pragma unroll
      for (int row = block * Values::rows_per_block; row < (block + 1) * Values::rows_per_block;
           ++row) {
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          bits = max(bits, __float_as_uint(x[row][column]) & 0x7FFFFFFFu);
        }
      }
      bits = (coded & groups_of(block)) != 0 ? __reduce_max_sync(all_lanes, bits) : 0;
      const bool good = bits < overflow_bits(codec);
      const bool zero = !good || bits < smallest_scaled_bits;
      if (good) finite |= groups_of(block);
      const float largest = __uint_as_float(bits);
      const float scale = zero ? 0.0f : largest / most;
      const float codes_per_unit = zero ? 0.0f : most / largest;
      const std::uint32_t written =
          good || to.settings.zero_non_finite ? __float_as_uint(scale) : canonical_nan_f32;
      if (lane_id() == block) own_scale = written;
#pragma unroll
      for (int row = block * Values::rows_per_block; row < (block + 1) * Values::rows_per_block;
           ++row) {
        codes[row] = 0;
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          // |x * codes_per_unit| <= most + 2^-16, so it rounds to at most `most` without a clamp.
          const float rounded = zero ? round_magic : x[row][column] * codes_per_unit + round_magic;
          codes[row] |= (__float_as_uint(rounded) & Values::code_mask)
                        << (Values::code_bits * column);
          x[row][column] -= (rounded - round_magic) * scale;
        }
      }
    }
    Values::template store<Map>(to, codes, digest);
    if (has_scale(to.elements)) {
      const std::uint64_t byte = own_scale_byte(to);
      *reinterpret_cast<std::uint32_t*>(to.slot + byte) = own_scale;
      digest += digest_word(own_scale, word_index(byte));
    }
    if constexpr (!Map::vectors) {
      __syncwarp();
      const OwnedWords words{to.value_byte, to.value_byte + bytes_of(to.elements), to.tile_end};
      digest += digest_words(to.slot, words.first, words.last);
    }
    return finite;
  }

  /// A unit's bytes as they were loaded.
  template <typename Map>
  struct Raw {
    std::uint32_t own_scale;  ///< of block lane_id()
    std::uint32_t codes[rows];
  };
  static constexpr int peers_at_once = 2;

  template <typename Map>
  static __device__ __forceinline__ Raw<Map> load(const UnitSource& from) {
    Raw<Map> raw;
    raw.own_scale = 0;
    if (has_scale(from.elements)) {
      raw.own_scale =
          __ldg(reinterpret_cast<const std::uint32_t*>(from.slot + own_scale_byte(from)));
    }
    Values::template load<Map>(from, raw.codes);
    return raw;
  }

  /// read() does it.
  template <typename Map, int count, typename Source>
  static __device__ void digest_scales(const Raw<Map> (&)[count], Source, std::uint64_t&) {}

  template <typename Map, typename Use>
  static __device__ __forceinline__ void read(const Raw<Map>& raw, const UnitSource& from,
                                              std::uint64_t& digest, Use use) {
    if (has_scale(from.elements)) {
      digest += digest_word(raw.own_scale, word_index(own_scale_byte(from)));
    }
    if constexpr (!Map::vectors) digest += digest_owned(from, bytes_of(from.elements));
    std::uint32_t codes[rows];
    Values::template unpack<Map>(raw.codes, from, codes, digest);
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      const float scale =
          __uint_as_float(__shfl_sync(all_lanes, raw.own_scale, row / Values::rows_per_block));
#pragma unroll
      for (int column = 0; column < columns; ++column) {
        const std::uint32_t code = codes[row] >> (Values::code_bits * column) & Values::code_mask;
        use(row, column, Values::as_float(code) * scale);
      }
    }
  }

  template <typename Map, typename T>
  static __device__ __forceinline__ void decode(const Raw<Map>& raw, const UnitSource& from,
                                                std::uint64_t& digest, float out_scale, T* out) {
    decode_elements<Quantised, Map>(raw, from, digest, out_scale, out);
  }

 private:
  static constexpr int block_length = 128 * Values::rows_per_block;

  /// Lane b of the first ones takes care of the scale of block b.
  static __device__ bool has_scale(int elements) {
    return lane_id() < blocks && lane_id() * block_length < elements;
  }
  static __device__ std::uint64_t own_scale_byte(const auto& unit) {
    return unit.scale_byte + 4 * static_cast<std::uint64_t>(lane_id());
  }

  static constexpr std::uint32_t groups_of(int block) {
    return ((1u << (2 * Values::rows_per_block)) - 1u) << (2 * Values::rows_per_block * block);
  }
};

}  // namespace thinwire::compress::cuda
