// One bit an element; docs/wire-format.md states the arithmetic.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/sign.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include <cmath>

#include "simd/codecs.hpp"
#include "simd/decode-inl.hpp"
#include "simd/encode-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {
namespace {

/// Adds neighbours until one number is left: v_l += v_(l+d), d = 1, 2, .., 32, of 64 lanes.
HWY_INLINE float fold(FloatVec* v) {
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t distance = 1; distance < group; distance *= 2) {
    for (std::size_t l = 0; l < group; l += 2 * distance) v[l] = hn::Add(v[l], v[l + distance]);
  }
  return hn::GetLane(v[0]);
#else
  const Floats d;
  for (std::size_t count = group_vectors / 2; count > 0; count /= 2) {
    for (std::size_t i = 0; i < count; ++i) {
      const FloatVec low = v[2 * i];
      const FloatVec high = v[2 * i + 1];
      v[i] = hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low));
    }
  }
  FloatVec last = v[0];
  for (std::size_t width = lanes; width > 1; width /= 2) {
    last = hn::Add(hn::ConcatEven(d, last, last), hn::ConcatOdd(d, last, last));
  }
  return hn::GetLane(last);
#endif
}

/// Sums of |x| or x * x: 128 lanes of 8 numbers each, then the tree.
template <SignScale kScale>
struct Sums {
  static constexpr bool live_groups_only = true;

  FloatVec sums[2][group_vectors];

  HWY_INLINE Sums() {
    for (auto& half : sums) {
      for (FloatVec& sum : half) sum = hn::Zero(Floats{});
    }
  }
  template <std::size_t kHalf>
  HWY_INLINE void add(const FloatVec* x) {
    for (std::size_t v = 0; v < group_vectors; ++v) {
      const FloatVec term = kScale == SignScale::mean ? hn::Abs(x[v]) : hn::Mul(x[v], x[v]);
      sums[kHalf][v] = hn::Add(sums[kHalf][v], term);
    }
  }
  HWY_INLINE float total() {
    const float low = fold(sums[0]);
    return low + fold(sums[1]);
  }
};

/// The signs of 64 numbers as bits, in order.
HWY_INLINE void store_signs(const FloatVec* x, std::byte* to) {
  const Ints di;
  auto* bytes = reinterpret_cast<std::uint8_t*>(to);
  if constexpr (lanes >= 8) {
    for (std::size_t v = 0; v < group_vectors; ++v) {
      const auto negative = hn::Lt(hn::BitCast(di, x[v]), hn::Zero(di));
      hn::StoreMaskBits(di, negative, bytes + v * lanes / 8);
    }
  } else {
    std::uint64_t word = 0;
    for (std::size_t v = 0; v < group_vectors; ++v) {
      std::uint8_t bits[8] = {};
      hn::StoreMaskBits(di, hn::Lt(hn::BitCast(di, x[v]), hn::Zero(di)), bits);
      word |= static_cast<std::uint64_t>(bits[0]) << (v * lanes);
    }
    std::memcpy(bytes, &word, sizeof word);
  }
}

/// A group's 64 values: +-s by its bits.
HWY_INLINE void load_signs(WordVec s, const std::byte* bits, FloatVec* to) {
  const Words dw;
  const WordVec sign_bit = hn::Set(dw, 0x80000000u);
#if HWY_TARGET <= HWY_AVX3
  const FloatVec plus = hn::BitCast(Floats{}, s);
  const FloatVec minus = hn::BitCast(Floats{}, hn::Xor(s, sign_bit));
  for (std::size_t v = 0; v < group_vectors; ++v) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(bits) + v * lanes / 8;
    to[v] = hn::IfThenElse(hn::LoadMaskBits(Floats{}, from), minus, plus);
  }
#else
  constexpr std::size_t per_word = 32;
  // Lane l of vector v takes bit v * lanes + l to the top.
  const WordVec first_shift = hn::Sub(hn::Set(dw, 31u), hn::Iota(dw, 0));
  for (std::size_t v = 0; v < group_vectors; ++v) {
    std::uint32_t word;
    std::memcpy(&word, bits + v * lanes / per_word * 4, sizeof word);
    const auto skipped = static_cast<std::uint32_t>(v * lanes % per_word);
    const WordVec shift = hn::Sub(first_shift, hn::Set(dw, skipped));
    const WordVec sign = hn::And(hn::Shl(hn::Set(dw, word), shift), sign_bit);
    to[v] = hn::BitCast(Floats{}, hn::Xor(s, sign));
  }
#endif
}

#if HWY_TARGET <= HWY_AVX3
/// Up to four payloads of a block have but 16 different sums, which stand in one register; an
/// element's signs choose.
class SignSum {
 public:
  static constexpr int most = 4;

  HWY_INLINE bool start(const Payloads& payloads) {
    const Words dw;
    std::uint32_t live = payloads.count > 1 ? 0xFFFFu : 0u;
    FloatVec sums = hn::Zero(Floats{});
    for (int i = 0; i < most; ++i) {
      // What is missing adds +-0 to a sum that is never -0.
      const bool present = i < payloads.count;
      const std::size_t at = present ? static_cast<std::size_t>(i) * payloads.stride : 0;
      bits_[i] = payloads.values + at;
      std::uint32_t word;
      std::memcpy(&word, payloads.scales + at, sizeof word);
      live &= word;
      // Bit i of the number of a lane says whether payload i is negative there.
      const WordVec sign =
          hn::And(hn::Shl(hn::Iota(dw, 0), hn::Set(dw, 31u - static_cast<std::uint32_t>(i))),
                  hn::Set(dw, 0x80000000u));
      const WordVec scale = hn::Set(dw, present ? word & 0xFFFF0000u : 0u);
      sums = hn::Add(sums, hn::BitCast(Floats{}, hn::Xor(scale, sign)));
    }
    hn::Store(sums, Floats{}, sums_);
    return live == 0xFFFFu;
  }

  HWY_INLINE void load(std::size_t g, FloatVec* to) const {
    const __m512 sums = _mm512_load_ps(sums_);
    for (std::size_t half = 0; half < 2; ++half) {
      // Lane l wants bits l and l + 16 of payload i at i and i + 16, and heeds four bits of each.
      __m512i chosen = turned(0, g, half);
      for (int i = 1; i < most; ++i) {
        const __m512i taken = _mm512_set1_epi32(0x00010001 << i);
        constexpr int select = 0xCA;  // taken ? turned : chosen
        chosen = _mm512_ternarylogic_epi32(taken, turned(i, g, half), chosen, select);
      }
      to[2 * half] = FloatVec{_mm512_permutexvar_ps(chosen, sums)};
      to[2 * half + 1] = FloatVec{_mm512_permutexvar_ps(_mm512_srli_epi32(chosen, 16), sums)};
    }
  }

 private:
  /// 32 of payload i's bits of group g, turned right by l - i in lane l.
  HWY_INLINE __m512i turned(int i, std::size_t g, std::size_t half) const {
    std::int32_t word;
    std::memcpy(&word, bits_[i] + 8 * g + 4 * half, sizeof word);
    const WordVec count = hn::Iota(Words{}, static_cast<std::uint32_t>(32 - i));
    return _mm512_rorv_epi32(_mm512_set1_epi32(word), count.raw);
  }

  alignas(64) float sums_[lanes];
  const std::byte* bits_[most];
};
#else
using SignSum = NoQuickSum;
#endif

template <SignScale kScale>
struct SignBlock {
  using QuickSum = SignSum;

  static constexpr std::size_t block = static_cast<std::size_t>(block_elements(Codec::sign));
  static constexpr std::size_t scale_bytes = 4;
  static constexpr std::size_t value_bytes(std::size_t elements) {
    return (elements + group - 1) / group * 8;
  }

  static void write_non_finite(std::byte* scale, std::byte*, std::size_t) {
    std::memcpy(scale, &sign_non_finite_word, sizeof sign_non_finite_word);
  }

  template <Memory kMemory, typename Source>
  static HWY_INLINE bool encode(Source& source, float inv_scale, const float* residual,
                                float* residual_next, std::size_t count, std::byte* scale,
                                std::byte* values) {
    constexpr bool feedback = kMemory != Memory::none;
    BlockBuffer<block> buffer;
    Sums<kScale> sums;
    const std::uint32_t mask =
        load_block<kMemory, block>(source, inv_scale, residual, residual_next, buffer.x, sums);

    float s = 0;
    if (mask != 0) {
      float mean = sums.total() / static_cast<float>(live_elements(mask, count));
      if constexpr (kScale == SignScale::rms) mean = std::sqrt(mean);
      const std::uint16_t rounded = bf16_bits(mean);
      if ((rounded & 0x7F80u) == 0x7F80u) [[unlikely]]
        return false;
      s = from_bf16_bits(rounded);
    }
    const std::uint32_t word = std::bit_cast<std::uint32_t>(s) | mask;
    std::memcpy(scale, &word, sizeof word);

    const Floats d;
    const FloatVec level = hn::Set(d, s);
    for (std::size_t g = 0; g * group < block; ++g) {
      const std::size_t first = g * group;
      beside_store<SignBlock, kMemory>(source, residual, g);
      FloatVec x[group_vectors];
      for (std::size_t v = 0; v < group_vectors; ++v) {
        x[v] = hn::Load(d, buffer.x + first + v * lanes);
      }
      store_signs(x, values + g * 8);
      if constexpr (feedback) {
        if ((mask >> g & 1) != 0) [[likely]] {
          for (std::size_t v = 0; v < group_vectors; ++v) {
            store_residual<kMemory>(hn::Sub(x[v], hn::CopySignToAbs(level, x[v])),
                                    residual_next + first + v * lanes);
          }
        } else {
          keep_residual<kMemory>(residual + first, residual_next + first, group);
        }
      }
    }
    return true;
  }

  static HWY_INLINE void decode_group(const std::byte* scale, const std::byte* values,
                                      std::size_t g, FloatVec* to) {
    std::uint32_t word;
    std::memcpy(&word, scale, sizeof word);
    if ((word >> g & 1) != 0) [[likely]] {
      load_signs(hn::Set(Words{}, word & 0xFFFF0000u), values + g * 8, to);
    } else {
      for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Zero(Floats{});
    }
  }

  /// Elements that exist in live groups.
  static std::size_t live_elements(std::uint32_t mask, std::size_t count) {
    std::size_t elements = hwy::PopCount(mask) * group;
    const std::size_t last = (count - 1) / group;
    if ((mask >> last & 1) != 0) elements -= (last + 1) * group - count;
    return elements;
  }
};

BlockKernels sign_table(SignScale scale) {
  using Mean = SignBlock<SignScale::mean>;
  using Rms = SignBlock<SignScale::rms>;
  if (scale == SignScale::rms) return {&encode_stretch<Rms>, &decode_stretch<Rms>};
  return {&encode_stretch<Mean>, &decode_stretch<Mean>};
}

}  // namespace
}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::compress::simd {
HWY_EXPORT(sign_table);
BlockKernels sign_kernels(SignScale scale) { return HWY_DYNAMIC_DISPATCH(sign_table)(scale); }
}  // namespace thinwire::compress::simd
#endif
