#pragma once

#include "block_rules.hpp"
#include "cuda/block_codec.cuh"

namespace thinwire::compress::cuda {

/// A lane's 8 x 4 bits (bit 4 row + column) against the word of the payload that it moves: lane
/// 8 q + j of the warp has word 4 j + q. Nibbles change places among 8 lanes; its own inverse.
__device__ inline std::uint32_t transpose_nibbles(std::uint32_t bits) {
  const int lane = lane_id();
  std::uint32_t other = __shfl_xor_sync(all_lanes, bits, 4);
  bits = (lane & 4) == 0 ? __byte_perm(bits, other, 0x5410) : __byte_perm(bits, other, 0x3276);
  other = __shfl_xor_sync(all_lanes, bits, 2);
  bits = (lane & 2) == 0 ? __byte_perm(bits, other, 0x6240) : __byte_perm(bits, other, 0x3715);
  other = __shfl_xor_sync(all_lanes, bits, 1);
  return (lane & 1) == 0 ? (bits & 0x0F0F0F0Fu) | ((other & 0x0F0F0F0Fu) << 4)
                         : (bits & 0xF0F0F0F0u) | ((other >> 4) & 0x0F0F0F0Fu);
}

/// 1 bit an element, one header word a block of 1024: bf16 scale above 16 live groups.
struct Sign {
  static constexpr Codec codec = Codec::sign;
  static constexpr int blocks = 1;
  static constexpr std::uint64_t value_bytes = 128;
  static constexpr std::uint64_t value_alignment = 4;  ///< always: parts of 8 bytes
  static constexpr bool may_cross = false;

  static __device__ std::uint32_t coded_groups(std::uint32_t live) { return live; }

  template <typename Map>
  static __device__ __forceinline__ std::uint32_t encode(Tile& x, std::uint32_t live,
                                                         const UnitTarget& to,
                                                         std::uint64_t& digest) {
    const std::uint32_t level = scale_bits<Map>(x, live, to.elements, to.settings.rms);
    const bool finite = level < 0x7F80u;
    const std::uint32_t header = finite                        ? level << 16 | live
                                 : to.settings.zero_non_finite ? 0u
                                                               : sign_non_finite_word;
    const std::uint32_t bits = finite ? sign_bits<Map>(x) : 0u;

    const int word = word_of<Map>();
    auto* values = reinterpret_cast<std::uint32_t*>(to.slot + to.value_byte);
    if (Map::whole || word < words_of(to.elements)) {
      values[word] = bits;
      digest += digest_word(bits, word_index(to.value_byte) + static_cast<std::uint64_t>(word));
    }
    if (lane_id() == 0) {
      *reinterpret_cast<std::uint32_t*>(to.slot + to.scale_byte) = header;
      digest += digest_word(header, word_index(to.scale_byte));
    }

    const std::uint32_t scale = level << 16;
    for_each<Map>([&](int row, int column) {
      const std::uint32_t sign = __float_as_uint(x[row][column]) & 0x80000000u;
      x[row][column] -= __uint_as_float(sign | scale);
    });
    return finite ? 0xFFFFu : 0u;
  }

  /// A unit's bytes as they were loaded.
  template <typename Map>
  struct Raw {
    std::uint32_t header;
    std::uint32_t word;  ///< of the payload: word_of() of it
  };
  static constexpr int peers_at_once = 4;

  template <typename Map>
  static __device__ __forceinline__ Raw<Map> load(const UnitSource& from) {
    Raw<Map> raw;
    raw.header = __ldg(reinterpret_cast<const std::uint32_t*>(from.slot + from.scale_byte));
    raw.word = 0;
    if (Map::whole || word_of<Map>() < words_of(from.elements)) {
      raw.word = __ldg(reinterpret_cast<const std::uint32_t*>(from.slot + from.value_byte) +
                       word_of<Map>());
    }
    return raw;
  }

  /// Adds the digest of the headers of `count` units, a lane each.
  template <typename Map, int count, typename Source>
  static __device__ __forceinline__ void digest_scales(const Raw<Map> (&raws)[count], Source source,
                                                       std::uint64_t& digest) {
    static_assert(count <= 32);
    if (lane_id() >= count) return;
    std::uint32_t header = raws[0].header;
#pragma unroll
    for (int i = 1; i < count; ++i) header = lane_id() == i ? raws[i].header : header;
    digest += digest_word(header, word_index(source(0).scale_byte));
  }

  /// Calls use(row, column, v) with what the unit says; v of a group that is not live is +-0.
  template <typename Map, typename Use>
  static __device__ __forceinline__ void read(const Raw<Map>& raw, const UnitSource& from,
                                              std::uint64_t& digest, Use use) {
    const Bits<Map> bits{raw, from, digest};
    const std::uint32_t scale = bits.header & 0xFFFF0000u;
    if (bits.all_live()) {
      for_each<Map>([&](int row, int column) {
        use(row, column, __uint_as_float(scale ^ bits.sign(row, column)));
      });
      return;
    }
    for_each<Map>([&](int row, int column) {
      const std::uint32_t own = bits.live(row, column) ? scale : 0u;
      use(row, column, __uint_as_float(own ^ bits.sign(row, column)));
    });
  }

  /// Decodes to a tensor: only two values there are, so they are scaled and rounded once.
  template <typename Map, typename T>
  static __device__ __forceinline__ void decode(const Raw<Map>& raw, const UnitSource& from,
                                                std::uint64_t& digest, float out_scale, T* out) {
    const Bits<Map> bits{raw, from, digest};
    const float plus = __uint_as_float(bits.header & 0xFFFF0000u) * out_scale;
    const T high = narrow<T>(plus);
    const T low = narrow<T>(-plus);
    if (bits.all_live()) {
      store<Map>(from, out,
                 [&](int row, int column) { return bits.sign(row, column) != 0 ? low : high; });
      return;
    }
    const T zero = narrow<T>(0.0f * out_scale);
    store<Map>(from, out, [&](int row, int column) {
      const T value = bits.sign(row, column) != 0 ? low : high;
      return bits.live(row, column) ? value : zero;
    });
  }

 private:
  template <typename Map, typename T, typename Value>
  static __device__ __forceinline__ void store(const UnitSource& from, T* out, Value value) {
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      T values[columns];
#pragma unroll
      for (int column = 0; column < columns; ++column) values[column] = value(row, column);
      store_row<Map>(out, from.elements, row, values);
    }
  }

  /// The payload word that the lane loads and stores, before nibbles are transposed.
  template <typename Map>
  static __device__ int word_of() {
    return Map::vectors ? 4 * (lane_id() & 7) + (lane_id() >> 3) : lane_id();
  }
  static __device__ int words_of(int elements) { return (elements + 63) / 64 * 2; }

  template <typename Map>
  struct Bits {
    std::uint32_t header;
    std::uint32_t word;  ///< Packed: the lane's own bits; Strided: word lane_id() of the payload

    __device__ __forceinline__ Bits(const Raw<Map>& raw, const UnitSource& from,
                                    std::uint64_t& digest)
        : header{raw.header}, word{raw.word} {
      if (Map::whole || word_of<Map>() < words_of(from.elements)) {
        digest += digest_word(
            word, word_index(from.value_byte) + static_cast<std::uint64_t>(word_of<Map>()));
      }
      if constexpr (Map::vectors) word = transpose_nibbles(word);
    }

    /// True for every lane or none.
    __device__ bool all_live() const { return (header & 0xFFFFu) == 0xFFFFu; }

    __device__ bool live(int row, int column) const {
      return (header >> Map::group(row, column) & 1u) != 0;
    }

    /// The sign bit of an element, in place.
    __device__ std::uint32_t sign(int row, int column) const {
      if constexpr (Map::vectors) {
        return word << (31 - (4 * row + column)) & 0x80000000u;
      } else {
        return __shfl_sync(all_lanes, word, 4 * row + column) << (31 - lane_id()) & 0x80000000u;
      }
    }
  };

  /// The payload word that the lane stores.
  template <typename Map>
  static __device__ __forceinline__ std::uint32_t sign_bits(const Tile& x) {
    std::uint32_t bits = 0;
    if constexpr (Map::vectors) {
      // Four chains of eight, so that shifts need not wait for each other.
      std::uint32_t bytes[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 7; i >= 0; --i) {
#pragma unroll
        for (int byte = 0; byte < 4; ++byte) {
          const float value = x[2 * byte + i / columns][i % columns];
          bytes[byte] = __funnelshift_l(__float_as_uint(value), bytes[byte], 1);
        }
      }
      bits = __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0040),
                         __byte_perm(bytes[2], bytes[3], 0x0040), 0x5410);
      return transpose_nibbles(bits);
    } else {
      for_each<Map>([&](int row, int column) {
        const std::uint32_t word =
            __ballot_sync(all_lanes, __float_as_uint(x[row][column]) >> 31 != 0);
        if (lane_id() == 4 * row + column) bits = word;
      });
      return bits;
    }
  }

  /// The tree of docs/wire-format.md: lane l of 128 adds its column over the rows, then neighbours.
  template <typename Map>
  static __device__ __forceinline__ float sum(const float (&lanes)[columns]) {
    if constexpr (Map::vectors) {
      float total = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        total += __shfl_xor_sync(all_lanes, total, distance);
      }
      return total;
    } else {
      float totals[columns];
#pragma unroll
      for (int column = 0; column < columns; ++column) {
        totals[column] = lanes[column];
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
          totals[column] += __shfl_xor_sync(all_lanes, totals[column], distance);
        }
      }
      return (totals[0] + totals[1]) + (totals[2] + totals[3]);
    }
  }

  template <typename Map>
  static __device__ __forceinline__ std::uint32_t scale_bits(const Tile& x, std::uint32_t live,
                                                             int elements, bool rms) {
    float lanes[columns] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (!rms && live == 0xFFFFu) {
      for_each<Map>([&](int row, int column) { lanes[column] += fabsf(x[row][column]); });
    } else if (!rms) {
      for_each<Map>([&](int row, int column) {
        const bool counts = (live >> Map::group(row, column) & 1u) != 0;
        lanes[column] += counts ? fabsf(x[row][column]) : 0.0f;
      });
    } else {
      for_each<Map>([&](int row, int column) {
        const bool counts = (live >> Map::group(row, column) & 1u) != 0;
        lanes[column] += counts ? x[row][column] * x[row][column] : 0.0f;
      });
    }
    const float total = sum<Map>(lanes);
    if (live == 0) return 0;
    int count = 64 * __popc(live);
    const int last = (elements - 1) / 64;
    if ((live >> last & 1u) != 0) count -= 64 * (last + 1) - elements;
    const float mean = total / static_cast<float>(count);
    return bf16_bits(rms ? sqrtf(mean) : mean);
  }
};

}  // namespace thinwire::compress::cuda
