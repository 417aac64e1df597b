#include "cuda/block_kernels.cuh"
#include "cuda/quantised.cuh"

namespace thinwire::compress::cuda {
namespace {

struct Nibbles {
  static constexpr Codec codec = Codec::int4;
  static constexpr int rows_per_block = 1;
  static constexpr float most = 7.0f;
  static constexpr int codes_per_byte = 2;
  static constexpr int code_bits = 4;
  static constexpr std::uint32_t code_mask = 0xFu;

  /// Exact: 2^23 + 8 + code, without an integer conversion.
  static __device__ float as_float(std::uint32_t code) {
    return __uint_as_float(0x4B000000u | (code ^ 0x8u)) - 8388616.0f;
  }

  template <typename Map>
  static __device__ __forceinline__ void store(const UnitTarget& to,
                                               const std::uint32_t (&codes)[rows],
                                               std::uint64_t& digest) {
    std::byte* first = to.slot + to.value_byte;
    const bool odd = (lane_id() & 1) != 0;
    if constexpr (Map::vectors) {
#pragma unroll
      for (int row = 0; row < rows; row += 2) {
        const std::uint32_t given = odd ? codes[row] : codes[row + 1];
        const std::uint32_t taken = __shfl_xor_sync(all_lanes, given, 1);
        const std::uint32_t bits = odd ? taken | codes[row + 1] << 16 : codes[row] | taken << 16;
        const int word = word_of(row);
        __stcs(reinterpret_cast<std::uint32_t*>(first) + word, bits);
        digest += digest_word(bits, word_index(to.value_byte) + word);
      }
    } else {
      for_each<Map>([&](int row, int column) {
        const std::uint32_t low = codes[row] >> (4 * column) & 0xFu;
        const std::uint32_t high = __shfl_xor_sync(all_lanes, low, 1);
        const int at = Map::element(row, column);
        if (!odd && (Map::whole || at < to.elements))
          first[at / 2] = static_cast<std::byte>(low | high << 4);
      });
    }
  }

  template <typename Map>
  static __device__ __forceinline__ void load(const UnitSource& from,
                                              std::uint32_t (&codes)[rows]) {
    const std::byte* first = from.slot + from.value_byte;
    const bool odd = (lane_id() & 1) != 0;
    if constexpr (Map::vectors) {
#pragma unroll
      for (int row = 0; row < rows; row += 2) {
        codes[row] = __ldg(reinterpret_cast<const std::uint32_t*>(first) + word_of(row));
      }
    } else {
#pragma unroll
      for (int row = 0; row < rows; ++row) {
        codes[row] = 0;
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          const int at = Map::element(row, column);
          if (at >= from.elements) continue;
          const auto pair = static_cast<std::uint32_t>(first[at / 2]);
          codes[row] |= (pair >> (odd ? 4 : 0) & 0xFu) << (4 * column);
        }
      }
    }
  }

  template <typename Map>
  static __device__ __forceinline__ void unpack(const std::uint32_t (&loaded)[rows],
                                                const UnitSource& from,
                                                std::uint32_t (&codes)[rows],
                                                std::uint64_t& digest) {
    const bool odd = (lane_id() & 1) != 0;
#pragma unroll
    for (int row = 0; row < rows; row += 2) {
      if constexpr (Map::vectors) {
        const std::uint32_t bits = loaded[row];
        digest += digest_word(bits, word_index(from.value_byte) + word_of(row));
        const std::uint32_t given = odd ? bits & 0xFFFFu : bits >> 16;
        const std::uint32_t taken = __shfl_xor_sync(all_lanes, given, 1);
        codes[row] = odd ? taken : bits & 0xFFFFu;
        codes[row + 1] = odd ? bits >> 16 : taken;
      } else {
        codes[row] = loaded[row];
        codes[row + 1] = loaded[row + 1];
      }
    }
  }

 private:
  /// A word is two lanes' of a row: even lanes take `row`, odd ones the next.
  static __device__ int word_of(int row) { return 16 * (row + (lane_id() & 1)) + lane_id() / 2; }
};

}  // namespace

const SectionLauncher& int4_launcher() {
  static const BlockLauncherOf<Quantised<Nibbles>> launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
