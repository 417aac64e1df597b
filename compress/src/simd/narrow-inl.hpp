// Stores: narrowing (one rounding to nearest even, every NaN canonical: as core/dtype.hpp says),
// and past the caches.

#if defined(THINWIRE_COMPRESS_SIMD_NARROW_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef THINWIRE_COMPRESS_SIMD_NARROW_INL
#undef THINWIRE_COMPRESS_SIMD_NARROW_INL
#else
#define THINWIRE_COMPRESS_SIMD_NARROW_INL
#endif

#include <cstring>

#include "simd/block-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {

HWY_INLINE FloatVec canonical(FloatVec v) {
  const FloatVec nan = hn::BitCast(Floats{}, hn::Set(Words{}, canonical_nan_f32));
  return hn::IfThenElse(hn::IsNaN(v), nan, v);
}

/// bf16 by integer code: instructions for it flush denormals or truncate.
HWY_INLINE hn::Vec<Shorts> narrow_bf16(FloatVec v) {
  const Words dw;
  const WordVec u = bits_of(v);
  const WordVec odd = hn::And(hn::ShiftRight<16>(u), hn::Set(dw, 1u));
  const WordVec rounded = hn::ShiftRight<16>(hn::Add(hn::Add(u, hn::Set(dw, 0x7FFFu)), odd));
  const auto is_nan = hn::RebindMask(dw, hn::IsNaN(v));
  const WordVec nan = hn::Set(dw, std::uint32_t{canonical_nan_bf16});
  return hn::TruncateTo(Shorts{}, hn::IfThenElse(is_nan, nan, rounded));
}

/// fp16, saturating at +-65504.
HWY_INLINE hn::Vec<Shorts> narrow_fp16(FloatVec v) {
#if HWY_TARGET <= HWY_AVX2
  // F16C: keeps denormals whatever the modes say.
  const FloatVec most = hn::Set(Floats{}, 65504.0f);
  const FloatVec limited = hn::Max(hn::Min(v, most), hn::Neg(most));
  const FloatVec kept = hn::IfThenElse(hn::IsNaN(v), canonical(v), limited);
  const hn::Rebind<hwy::float16_t, Floats> halves;
  return hn::BitCast(Shorts{}, hn::DemoteTo(halves, kept));
#else
  // highway's own code for other targets truncates on some.
  alignas(64) float values[lanes];
  alignas(64) std::uint16_t bits[lanes];
  hn::Store(v, Floats{}, values);
  for (std::size_t i = 0; i < lanes; ++i) bits[i] = fp16_bits(values[i]);
  return hn::Load(Shorts{}, bits);
#endif
}

HWY_INLINE void store_narrow(FloatVec v, float* to) { hn::StoreU(canonical(v), Floats{}, to); }
HWY_INLINE void store_narrow(FloatVec v, Half* to) {
  hn::StoreU(narrow_fp16(v), Shorts{}, reinterpret_cast<std::uint16_t*>(to));
}
HWY_INLINE void store_narrow(FloatVec v, BFloat16* to) {
  hn::StoreU(narrow_bf16(v), Shorts{}, reinterpret_cast<std::uint16_t*>(to));
}

/// Copies past the caches; what shares a cache line with its neighbours is stored plainly.
inline void stream_copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  const hn::ScalableTag<std::uint8_t> d;
  constexpr std::size_t step = hn::MaxLanes(hn::ScalableTag<std::uint8_t>{});
  const std::size_t before = (0 - reinterpret_cast<std::uintptr_t>(to)) % cache_line;
  const std::size_t head = before < bytes ? before : bytes;
  std::memcpy(to, from, head);
  std::size_t at = head;
  for (; at + cache_line <= bytes; at += cache_line) {
    for (std::size_t part = at; part < at + cache_line; part += step) {
      const auto v = hn::LoadU(d, reinterpret_cast<const std::uint8_t*>(from + part));
      hn::Stream(v, d, reinterpret_cast<std::uint8_t*>(to + part));
    }
  }
  std::memcpy(to + at, from + at, bytes - at);
}

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
