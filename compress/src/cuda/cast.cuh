#pragma once

#include "block_rules.hpp"
#include "cuda/block_codec.cuh"

namespace thinwire::compress::cuda {

/// none, bf16 and fp16: a value an element. `Values` says which, with or without a scale.
template <typename Values>
struct Cast {
  using Word = typename Values::Word;  ///< of one value on the wire
  static constexpr Codec codec = Values::codec;
  static constexpr int blocks = 1;
  static constexpr std::uint64_t value_bytes = 1024 * sizeof(Word);
  static constexpr std::uint64_t value_alignment = 4 * sizeof(Word);
  static constexpr bool may_cross = sizeof(Word) < 4;

  static __device__ std::uint64_t bytes_of(int elements) {
    return sizeof(Word) * static_cast<std::uint64_t>(elements);
  }

  static __device__ std::uint32_t coded_groups(std::uint32_t live) {
    return Values::keeps_zero ? live : 0xFFFFu;
  }

  template <typename Map>
  static __device__ __forceinline__ std::uint32_t encode(Tile& x, std::uint32_t coded,
                                                         const UnitTarget& to,
                                                         std::uint64_t& digest) {
    std::uint32_t largest = 0;
    for_each<Map>([&](int row, int column) {
      const bool counts = (coded >> Map::group(row, column) & 1u) != 0;
      largest = max(largest, counts ? __float_as_uint(x[row][column]) & 0x7FFFFFFFu : 0u);
    });
    largest = __reduce_max_sync(all_lanes, largest);
    const bool finite = largest < overflow_bits(codec);
    const Values values{finite ? largest : 0u};
    if (Values::scaled && lane_id() == 0) {
      const std::uint32_t scale =
          finite || to.settings.zero_non_finite ? values.scale_bits() : canonical_nan_f32;
      *reinterpret_cast<std::uint32_t*>(to.slot + to.scale_byte) = scale;
      digest += digest_word(scale, word_index(to.scale_byte));
    }
    const Word instead = Values::scaled || to.settings.zero_non_finite ? Word{0} : Values::nan;
    auto* first = reinterpret_cast<Word*>(to.slot + to.value_byte);
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      Word words[columns];
#pragma unroll
      for (int column = 0; column < columns; ++column) {
        const bool sends = (coded >> Map::group(row, column) & 1u) != 0;
        words[column] = !finite ? instead : sends ? values.encode(x[row][column]) : Word{0};
        x[row][column] -= values.decode(words[column]);
      }
      if constexpr (Map::vectors) {
        store_words(first, row, words, to, digest);
      } else {
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          const int at = Map::element(row, column);
          if ((Map::whole || at < to.elements)) first[at] = words[column];
        }
      }
    }
    if constexpr (!Map::vectors) {
      __syncwarp();
      const OwnedWords words{to.value_byte, to.value_byte + bytes_of(to.elements), to.tile_end};
      digest += digest_words(to.slot, words.first, words.last);
    }
    return finite ? 0xFFFFu : 0u;
  }

  /// Four values of a lane as one access, and the words of the payload that they are.
  union Four {
    Word values[columns];
    std::uint32_t words[sizeof(Word)];
    std::conditional_t<sizeof(Word) == 4, uint4, uint2> vector;
  };

  /// A unit's bytes as they were loaded.
  template <typename Map>
  struct Raw {
    std::uint32_t scale;
    Four values[rows];
  };
  static constexpr int peers_at_once = 1;

  template <typename Map>
  static __device__ __forceinline__ Raw<Map> load(const UnitSource& from) {
    Raw<Map> raw;
    raw.scale = 0;
    if constexpr (Values::scaled) {
      raw.scale = __ldg(reinterpret_cast<const std::uint32_t*>(from.slot + from.scale_byte));
    }
    const auto* first = reinterpret_cast<const Word*>(from.slot + from.value_byte);
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if constexpr (Map::vectors) {
        using Vector = decltype(Four::vector);
        raw.values[row].vector =
            __ldg(reinterpret_cast<const Vector*>(first) + 32 * row + lane_id());
      } else {
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          const int at = Map::element(row, column);
          raw.values[row].values[column] = at < from.elements ? first[at] : Word{0};
        }
      }
    }
    return raw;
  }

  /// read() does it.
  template <typename Map, int count, typename Source>
  static __device__ void digest_scales(const Raw<Map> (&)[count], Source, std::uint64_t&) {}

  template <typename Map, typename Use>
  static __device__ __forceinline__ void read(const Raw<Map>& raw, const UnitSource& from,
                                              std::uint64_t& digest, Use use) {
    Values values{0};
    if constexpr (Values::scaled) {
      values.set_scale(raw.scale);
      if (lane_id() == 0) digest += digest_word(raw.scale, word_index(from.scale_byte));
    }
    if constexpr (!Map::vectors) digest += digest_owned(from, bytes_of(from.elements));
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if constexpr (Map::vectors) digest += digest_of(raw.values[row], row, from.value_byte);
#pragma unroll
      for (int column = 0; column < columns; ++column) {
        use(row, column, values.decode(raw.values[row].values[column]));
      }
    }
  }

  template <typename Map, typename T>
  static __device__ __forceinline__ void decode(const Raw<Map>& raw, const UnitSource& from,
                                                std::uint64_t& digest, float out_scale, T* out) {
    decode_elements<Cast, Map>(raw, from, digest, out_scale, out);
  }

 private:
  static __device__ std::uint64_t digest_of(const Four& four, int row, std::uint64_t value_byte) {
    constexpr int per_lane = sizeof(Word);
    const std::uint64_t first = word_index(value_byte) + (32 * row + lane_id()) * per_lane;
    std::uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) sum += digest_word(four.words[i], first + i);
    return sum;
  }

  static __device__ __forceinline__ void store_words(Word* first, int row,
                                                     const Word (&words)[columns],
                                                     const UnitTarget& to, std::uint64_t& digest) {
    Four four;
#pragma unroll
    for (int i = 0; i < columns; ++i) four.values[i] = words[i];
    __stcs(reinterpret_cast<decltype(four.vector)*>(first) + 32 * row + lane_id(), four.vector);
    digest += digest_of(four, row, to.value_byte);
  }
};

}  // namespace thinwire::compress::cuda
