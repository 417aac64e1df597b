// Vectors and loads that all kernels share, compiled once for every target.

#if defined(THINWIRE_COMPRESS_SIMD_BLOCK_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef THINWIRE_COMPRESS_SIMD_BLOCK_INL
#undef THINWIRE_COMPRESS_SIMD_BLOCK_INL
#else
#define THINWIRE_COMPRESS_SIMD_BLOCK_INL
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "simd/kernels.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Words = hn::RebindToUnsigned<Floats>;
using Ints = hn::RebindToSigned<Floats>;
using Shorts = hn::Rebind<std::uint16_t, Floats>;
using FloatVec = hn::Vec<Floats>;
using WordVec = hn::Vec<Words>;

constexpr std::size_t lanes = hn::MaxLanes(Floats{});
constexpr std::size_t group = static_cast<std::size_t>(group_elements);
constexpr std::size_t group_vectors = group / lanes;

constexpr std::size_t cache_line = 64;

/// Fetches the lines of the group that lies `ahead` elements on. It may lie outside the array.
template <typename T>
HWY_INLINE void prefetch_group(const T* first, std::size_t ahead) {
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(first) + ahead * sizeof(T);
  for (std::size_t at = 0; at < group * sizeof(T); at += cache_line) {
    hwy::Prefetch(reinterpret_cast<const char*>(address + at));
  }
}

/// Called for each stretch of kElements that is streamed to memory: a streamed store waits for the
/// translation of its address, so one line a page is touched some pages ahead.
template <std::size_t kElements>
HWY_INLINE void prepare_stream(const float* to) {
  constexpr std::uintptr_t page = 4096;
  const auto address = reinterpret_cast<std::uintptr_t>(to);
  if (address % page < kElements * sizeof(float)) {
    __builtin_prefetch(reinterpret_cast<const char*>(address + 2 * page), 0, 0);
  }
}

/// Widening is exact.
HWY_INLINE FloatVec widen_fp16(hn::Vec<Shorts> bits) {
#if HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, Floats> halves;  // F16C
  return hn::PromoteTo(Floats{}, hn::BitCast(halves, bits));
#else
  // highway's own code loses NaN and Inf on some targets.
  alignas(64) std::uint16_t from[lanes];
  alignas(64) float values[lanes];
  hn::Store(bits, Shorts{}, from);
  for (std::size_t i = 0; i < lanes; ++i) values[i] = from_fp16_bits(from[i]);
  return hn::Load(Floats{}, values);
#endif
}
HWY_INLINE FloatVec widen_bf16(hn::Vec<Shorts> bits) {
  return hn::BitCast(Floats{}, hn::ShiftLeft<16>(hn::PromoteTo(Words{}, bits)));
}
HWY_INLINE FloatVec load_wide(const float* from) { return hn::LoadU(Floats{}, from); }
HWY_INLINE FloatVec load_wide(const Half* from) {
  return widen_fp16(hn::LoadU(Shorts{}, reinterpret_cast<const std::uint16_t*>(from)));
}
HWY_INLINE FloatVec load_wide(const BFloat16* from) {
  return widen_bf16(hn::LoadU(Shorts{}, reinterpret_cast<const std::uint16_t*>(from)));
}

HWY_INLINE WordVec bits_of(FloatVec v) { return hn::BitCast(Words{}, v); }

/// A block's numbers on their way through the L1.
template <std::size_t kElements>
struct BlockBuffer {
  alignas(64) float x[kElements];
};

/// Stores what is left of a vector of residuals.
template <Memory kMemory>
HWY_INLINE void store_residual(FloatVec v, float* to) {
  if constexpr (kMemory == Memory::streamed) {
    hn::Stream(v, Floats{}, to);
  } else {
    hn::StoreU(v, Floats{}, to);
  }
}

/// A stretch whose residual stays as it is.
template <Memory kMemory>
HWY_INLINE void keep_residual(const float* from, float* to, std::size_t elements) {
  if (kMemory == Memory::none || from == to) return;
  for (std::size_t i = 0; i < elements; i += lanes) {
    store_residual<kMemory>(hn::LoadU(Floats{}, from + i), to + i);
  }
}

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
