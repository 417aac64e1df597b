#include "cuda/block_kernels.cuh"
#include "cuda/quantised.cuh"

namespace thinwire::compress::cuda {
namespace {

struct Bytes {
  static constexpr Codec codec = Codec::int8;
  static constexpr int rows_per_block = 2;
  static constexpr float most = 127.0f;
  static constexpr int codes_per_byte = 1;
  static constexpr int code_bits = 8;
  static constexpr std::uint32_t code_mask = 0xFFu;

  /// Exact: 2^23 + 128 + code, without an integer conversion.
  static __device__ float as_float(std::uint32_t code) {
    return __uint_as_float(0x4B000000u | (code ^ 0x80u)) - 8388736.0f;
  }

  template <typename Map>
  static __device__ __forceinline__ void store(const UnitTarget& to,
                                               const std::uint32_t (&codes)[rows],
                                               std::uint64_t& digest) {
    std::byte* first = to.slot + to.value_byte;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if constexpr (Map::vectors) {
        const int word = 32 * row + lane_id();
        __stcs(reinterpret_cast<std::uint32_t*>(first) + word, codes[row]);
        digest += digest_word(codes[row], word_index(to.value_byte) + word);
      } else {
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          const int at = Map::element(row, column);
          if ((Map::whole || at < to.elements))
            first[at] = static_cast<std::byte>(codes[row] >> (8 * column));
        }
      }
    }
  }

  template <typename Map>
  static __device__ __forceinline__ void load(const UnitSource& from,
                                              std::uint32_t (&codes)[rows]) {
    const std::byte* first = from.slot + from.value_byte;
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      if constexpr (Map::vectors) {
        const int word = 32 * row + lane_id();
        codes[row] = __ldg(reinterpret_cast<const std::uint32_t*>(first) + word);
      } else {
        codes[row] = 0;
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          const int at = Map::element(row, column);
          if (at < from.elements) {
            codes[row] |= static_cast<std::uint32_t>(first[at]) << (8 * column);
          }
        }
      }
    }
  }

  /// What was loaded is what is meant.
  template <typename Map>
  static __device__ __forceinline__ void unpack(const std::uint32_t (&loaded)[rows],
                                                const UnitSource& from,
                                                std::uint32_t (&codes)[rows],
                                                std::uint64_t& digest) {
#pragma unroll
    for (int row = 0; row < rows; ++row) {
      codes[row] = loaded[row];
      if constexpr (Map::vectors) {
        digest += digest_word(codes[row], word_index(from.value_byte) + 32 * row + lane_id());
      }
    }
  }
};

}  // namespace

const SectionLauncher& int8_launcher() {
  static const BlockLauncherOf<Quantised<Bytes>> launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
