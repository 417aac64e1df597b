// The codecs without arithmetic of their own: none and bf16 (no scale), fp16 (a power of two).
// docs/wire-format.md states the rules.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/casts.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include "simd/codecs.hpp"
#include "simd/decode-inl.hpp"
#include "simd/encode-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {
namespace {

constexpr std::size_t cast_block = 1024;

struct NoneBlock {
  using QuickSum = NoQuickSum;
  static constexpr std::size_t block = cast_block;
  static constexpr std::size_t scale_bytes = 0;
  static constexpr std::size_t value_bytes(std::size_t elements) { return 4 * elements; }

  static void write_non_finite(std::byte*, std::byte* values, std::size_t elements) {
    for (std::size_t i = 0; i < elements; ++i) {
      std::memcpy(values + 4 * i, &canonical_nan_f32, sizeof canonical_nan_f32);
    }
  }

  template <Memory kMemory, typename Source>
  static HWY_INLINE bool encode(Source& source, float inv_scale, const float*, float*, std::size_t,
                                std::byte*, std::byte* values) {
    BlockBuffer<block> buffer;
    Largest<false> largest;
    load_block<Memory::none, block>(source, inv_scale, nullptr, nullptr, buffer.x, largest);
    if (largest.total() >= overflow_bits(Codec::none)) [[unlikely]]
      return false;
    for (std::size_t g = 0; g * group < block; ++g) {
      source.beside_store(g);
      std::memcpy(values + 4 * group * g, buffer.x + group * g, 4 * group);
    }
    return true;
  }

  static HWY_INLINE void decode_group(const std::byte*, const std::byte* values, std::size_t g,
                                      FloatVec* to) {
    const float* from = reinterpret_cast<const float*>(values) + g * group;
    for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::LoadU(Floats{}, from + v * lanes);
  }
};

/// What bf16 and fp16 share: 16 bits an element. Format has
///   scale_bytes, overflow and least: bounds of the largest magnitude (below `least`: all zero);
///   Scale(largest bits), with value(x) and its inverse; written by store(to).
template <typename Format>
struct HalfBlock {
  using QuickSum = NoQuickSum;
  static constexpr std::size_t block = cast_block;
  static constexpr std::size_t scale_bytes = Format::scale_bytes;
  static constexpr std::size_t value_bytes(std::size_t elements) { return 2 * elements; }

  static void write_non_finite(std::byte* scale, std::byte* values, std::size_t elements) {
    Format::write_non_finite(scale, values, elements);
  }

  template <Memory kMemory, typename Source>
  static HWY_INLINE bool encode(Source& source, float inv_scale, const float* residual,
                                float* residual_next, std::size_t, std::byte* scale,
                                std::byte* values) {
    constexpr bool feedback = kMemory != Memory::none;
    BlockBuffer<block> buffer;
    Largest<true> largest;
    const std::uint32_t live =
        load_block<kMemory, block>(source, inv_scale, residual, residual_next, buffer.x, largest);
    const std::uint32_t bits = largest.total();
    if (bits >= overflow_bits(Format::codec)) [[unlikely]]
      return false;
    const Format format{bits};
    format.store(scale);
    for (std::size_t g = 0; g * group < block; ++g) {
      const std::size_t first = g * group;
      beside_store<HalfBlock, kMemory>(source, residual, g);
      auto* to = reinterpret_cast<std::uint16_t*>(values) + first;
      if ((live >> g & 1) == 0) [[unlikely]] {
        std::memset(to, 0, group * sizeof *to);
        if constexpr (feedback) {
          keep_residual<kMemory>(residual + first, residual_next + first, group);
        }
        continue;
      }
      for (std::size_t i = 0; i < group; i += lanes) {
        const FloatVec x = hn::Load(Floats{}, buffer.x + first + i);
        const auto code = format.narrow(x);
        hn::StoreU(code, Shorts{}, to + i);
        if constexpr (feedback) {
          store_residual<kMemory>(hn::Sub(x, format.widen(code)), residual_next + first + i);
        }
      }
    }
    return true;
  }

  static HWY_INLINE void decode_group(const std::byte* scale, const std::byte* values,
                                      std::size_t g, FloatVec* to) {
    const Format format{scale};
    const auto* from = reinterpret_cast<const std::uint16_t*>(values) + g * group;
    for (std::size_t v = 0; v < group_vectors; ++v) {
      to[v] = format.widen(hn::LoadU(Shorts{}, from + v * lanes));
    }
  }
};

struct Bf16Format {
  static constexpr Codec codec = Codec::bf16;
  static constexpr std::size_t scale_bytes = 0;

  explicit Bf16Format(std::uint32_t) {}
  explicit Bf16Format(const std::byte*) {}
  void store(std::byte*) const {}
  HWY_INLINE hn::Vec<Shorts> narrow(FloatVec x) const { return narrow_bf16(x); }
  HWY_INLINE FloatVec widen(hn::Vec<Shorts> code) const { return widen_bf16(code); }

  static void write_non_finite(std::byte*, std::byte* values, std::size_t elements) {
    for (std::size_t i = 0; i < elements; ++i) {
      std::memcpy(values + 2 * i, &canonical_nan_bf16, sizeof canonical_nan_bf16);
    }
  }
};

struct Fp16Format {
  static constexpr Codec codec = Codec::fp16;
  static constexpr std::size_t scale_bytes = 4;

  /// The scale is 2^(floor(log2 M) - 14), or 0 if all is too small.
  explicit Fp16Format(std::uint32_t largest)
      : sent_{largest >= smallest_scaled_bits},
        scale_{sent_ ? std::bit_cast<float>(((largest >> 23) - 14u) << 23) : 0.0f},
        inverse_{sent_ ? 1.0f / scale_ : 0.0f} {}
  explicit Fp16Format(const std::byte* scale) : sent_{true}, inverse_{0} {
    std::memcpy(&scale_, scale, sizeof scale_);
  }
  void store(std::byte* to) const { std::memcpy(to, &scale_, sizeof scale_); }

  /// Multiplying by the inverse power of two rounds as dividing does.
  HWY_INLINE hn::Vec<Shorts> narrow(FloatVec x) const {
    if (!sent_) return hn::Zero(Shorts{});
    return narrow_fp16(hn::Mul(x, hn::Set(Floats{}, inverse_)));
  }
  HWY_INLINE FloatVec widen(hn::Vec<Shorts> code) const {
    return hn::Mul(hn::Set(Floats{}, scale_), widen_fp16(code));
  }

  static void write_non_finite(std::byte* scale, std::byte*, std::size_t) {
    std::memcpy(scale, &canonical_nan_f32, sizeof canonical_nan_f32);
  }

 private:
  bool sent_;
  float scale_;
  float inverse_;
};

BlockKernels none_table() { return {&encode_stretch<NoneBlock>, &decode_stretch<NoneBlock>}; }
BlockKernels bf16_table() {
  using Block = HalfBlock<Bf16Format>;
  return {&encode_stretch<Block>, &decode_stretch<Block>};
}
BlockKernels fp16_table() {
  using Block = HalfBlock<Fp16Format>;
  return {&encode_stretch<Block>, &decode_stretch<Block>};
}

}  // namespace
}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::compress::simd {
HWY_EXPORT(none_table);
HWY_EXPORT(bf16_table);
HWY_EXPORT(fp16_table);
BlockKernels none_kernels() { return HWY_DYNAMIC_DISPATCH(none_table)(); }
BlockKernels bf16_kernels() { return HWY_DYNAMIC_DISPATCH(bf16_table)(); }
BlockKernels fp16_kernels() { return HWY_DYNAMIC_DISPATCH(fp16_table)(); }
}  // namespace thinwire::compress::simd
#endif
