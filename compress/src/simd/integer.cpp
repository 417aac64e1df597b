// int8 and int4: a scale a block; docs/wire-format.md states the arithmetic.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/integer.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include "simd/codecs.hpp"
#include "simd/decode-inl.hpp"
#include "simd/encode-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {
namespace {

/// The codes of one vector, two's complement in the low bits of each lane, to consecutive bytes.
struct Int8 {
  static constexpr Codec codec = Codec::int8;
  static constexpr float most = 127.0f;
  static constexpr std::size_t value_bytes(std::size_t elements) { return elements; }

  static HWY_INLINE void pack(WordVec codes, std::byte* to, std::size_t i) {
    const hn::Rebind<std::uint8_t, Floats> bytes;
    hn::StoreU(hn::TruncateTo(bytes, codes), bytes, reinterpret_cast<std::uint8_t*>(to) + i);
  }
  static HWY_INLINE FloatVec unpack(const std::byte* from, std::size_t i) {
    const hn::Rebind<std::int8_t, Floats> bytes;
    const auto codes = hn::LoadU(bytes, reinterpret_cast<const std::int8_t*>(from) + i);
    return hn::ConvertTo(Floats{}, hn::PromoteTo(Ints{}, codes));
  }
};

struct Int4 {
  static constexpr Codec codec = Codec::int4;
  static constexpr float most = 7.0f;
  static constexpr std::size_t value_bytes(std::size_t elements) { return (elements + 1) / 2; }

#if HWY_TARGET == HWY_SCALAR
  static void pack(WordVec codes, std::byte* to, std::size_t i) {
    const auto code = static_cast<std::byte>(hn::GetLane(codes) & 0xFu);
    to[i / 2] = i % 2 == 0 ? code : to[i / 2] | code << 4;
  }
  static FloatVec unpack(const std::byte* from, std::size_t i) {
    const auto code = static_cast<int>(from[i / 2] >> (i % 2 * 4) & std::byte{0xF});
    return hn::Set(Floats{}, static_cast<float>((code ^ 8) - 8));
  }
#else
  static HWY_INLINE void pack(WordVec codes, std::byte* to, std::size_t i) {
    const hn::Repartition<std::uint64_t, Words> pairs;
    const hn::Rebind<std::uint8_t, hn::Repartition<std::uint64_t, Words> > bytes;
    const auto pair = hn::BitCast(pairs, hn::And(codes, hn::Set(Words{}, 0xFu)));
    hn::StoreU(hn::TruncateTo(bytes, hn::Or(pair, hn::ShiftRight<28>(pair))), bytes,
               reinterpret_cast<std::uint8_t*>(to) + i / 2);
  }
  static HWY_INLINE FloatVec unpack(const std::byte* from, std::size_t i) {
    const hn::Rebind<std::int8_t, Floats> codes;
    const hn::Repartition<std::uint16_t, decltype(codes)> shorts;
    const hn::Rebind<std::uint8_t, decltype(shorts)> bytes;
    const auto packed = hn::PromoteTo(
        shorts, hn::LoadU(bytes, reinterpret_cast<const std::uint8_t*>(from) + i / 2));
    // Both nibbles of a byte to the low halves of two bytes, then sign extension.
    const auto spread =
        hn::And(hn::Or(packed, hn::ShiftLeft<4>(packed)), hn::Set(shorts, std::uint16_t{0x0F0F}));
    const auto eight = hn::Set(codes, std::int8_t{8});
    const auto code = hn::Sub(hn::Xor(hn::BitCast(codes, spread), eight), eight);
    return hn::ConvertTo(Floats{}, hn::PromoteTo(Ints{}, code));
  }
#endif
};

template <typename Format>
struct IntegerBlock {
  using QuickSum = NoQuickSum;
  static constexpr std::size_t block = static_cast<std::size_t>(block_elements(Format::codec));
  static constexpr std::size_t scale_bytes = 4;
  static constexpr std::size_t value_bytes(std::size_t elements) {
    return Format::value_bytes(elements);
  }

  static void write_non_finite(std::byte* scale, std::byte*, std::size_t) {
    std::memcpy(scale, &canonical_nan_f32, sizeof canonical_nan_f32);
  }

  template <Memory kMemory, typename Source>
  static HWY_INLINE bool encode(Source& source, float inv_scale, const float* residual,
                                float* residual_next, std::size_t, std::byte* scale,
                                std::byte* values) {
    constexpr bool feedback = kMemory != Memory::none;
    const Floats d;
    BlockBuffer<block> buffer;
    Largest<false> largest;
    const std::uint32_t live =
        load_block<kMemory, block>(source, inv_scale, residual, residual_next, buffer.x, largest);
    const std::uint32_t bits = largest.total();
    if (live != 0 && bits >= overflow_bits(Format::codec)) [[unlikely]]
      return false;
    const bool sent = live != 0 && bits >= smallest_scaled_bits;
    const float m = std::bit_cast<float>(bits);
    const float s = sent ? m / Format::most : 0.0f;
    std::memcpy(scale, &s, sizeof s);
    if (!sent) [[unlikely]] {
      std::memset(values, 0, value_bytes(block));
      // Nothing sent: a live block stays in the residual, a dead one leaves it alone.
      keep_residual<kMemory>(live != 0 ? buffer.x : residual, residual_next, block);
      return true;
    }

    const FloatVec step = hn::Set(d, s);
    const FloatVec per_step = hn::Set(d, Format::most / m);
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    constexpr float shift = 12582912.0f;
    const FloatVec shifter = hn::Set(d, shift);
    const FloatVec low = hn::Set(d, shift - Format::most);
    const FloatVec high = hn::Set(d, shift + Format::most);
    for (std::size_t i = 0; i < block; i += lanes) {
      if (i % group == 0) {
        beside_store<IntegerBlock, kMemory>(source, residual, i / group);
      }
      const FloatVec x = hn::Load(d, buffer.x + i);
      const FloatVec shifted = hn::Min(hn::Max(hn::Add(hn::Mul(x, per_step), shifter), low), high);
      Format::pack(bits_of(shifted), values, i);
      if constexpr (feedback) {
        const FloatVec value = hn::Mul(hn::Sub(shifted, shifter), step);
        store_residual<kMemory>(hn::Sub(x, value), residual_next + i);
      }
    }
    return true;
  }

  static HWY_INLINE void decode_group(const std::byte* scale, const std::byte* values,
                                      std::size_t g, FloatVec* to) {
    float s;
    std::memcpy(&s, scale, sizeof s);
    const FloatVec step = hn::Set(Floats{}, s);
    for (std::size_t v = 0; v < group_vectors; ++v) {
      to[v] = hn::Mul(Format::unpack(values, g * group + v * lanes), step);
    }
  }
};

template <typename Format>
BlockKernels table() {
  using Block = IntegerBlock<Format>;
  return {&encode_stretch<Block>, &decode_stretch<Block>};
}
BlockKernels int8_table() { return table<Int8>(); }
BlockKernels int4_table() { return table<Int4>(); }

}  // namespace
}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::compress::simd {
HWY_EXPORT(int8_table);
HWY_EXPORT(int4_table);
BlockKernels int8_kernels() { return HWY_DYNAMIC_DISPATCH(int8_table)(); }
BlockKernels int4_kernels() { return HWY_DYNAMIC_DISPATCH(int4_table)(); }
}  // namespace thinwire::compress::simd
#endif
