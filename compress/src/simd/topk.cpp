// The pass over all elements of exact top-k: error feedback, and candidates for the selection.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/topk.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include <cstring>

#include "block_rules.hpp"
#include "simd/block-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {
namespace {

using IntVec = hn::Vec<Ints>;

/// Elements that a software prefetch runs ahead.
constexpr std::size_t prefetch_elements = 640;

/// |x| as integers, which compare as the magnitudes do: NaN > Inf > every number.
HWY_INLINE IntVec magnitude(FloatVec x) { return hn::BitCast(Ints{}, hn::Abs(x)); }

/// One bit for each of 64 numbers whose magnitude is over `below`.
HWY_INLINE std::uint64_t bits_over(const FloatVec* x, IntVec below) {
  std::uint8_t bytes[8] = {};
  if constexpr (lanes >= 8) {
    for (std::size_t v = 0; v < group_vectors; ++v) {
      hn::StoreMaskBits(Ints{}, hn::Gt(magnitude(x[v]), below), bytes + v * lanes / 8);
    }
  } else {
    for (std::size_t v = 0; v < group_vectors; ++v) {
      std::uint8_t bits[8] = {};
      hn::StoreMaskBits(Ints{}, hn::Gt(magnitude(x[v]), below), bits);
      bytes[v * lanes / 8] |= static_cast<std::uint8_t>(bits[0] << (v * lanes % 8));
    }
  }
  std::uint64_t mask;
  std::memcpy(&mask, bytes, sizeof mask);
  return mask;
}

/// Scans groups of 64. Appends the candidates to `out`; returns one past the last.
template <Memory kMemory, typename T>
HWY_INLINE TopkCandidate* scan_groups(const TopkScan& scan, const T* source, const float* residual,
                                      float* residual_next, std::size_t elements,
                                      std::uint32_t first_index, TopkCandidate* out,
                                      bool& overflow) {
  constexpr bool feedback = kMemory != Memory::none;
  const Floats d;
  const FloatVec inv = hn::Set(d, scan.inv_scale);
  const IntVec below = hn::Set(Ints{}, static_cast<std::int32_t>(scan.threshold));
  const IntVec limit = hn::Set(Ints{}, static_cast<std::int32_t>(overflow_bits(Codec::topk)) - 1);
  const IntVec infinity = hn::Set(Ints{}, std::int32_t{0x7F800000});
  for (std::size_t i = 0; i < elements; i += group) {
    prefetch_group(source + i, prefetch_elements);
    if constexpr (feedback) prefetch_group(residual + i, prefetch_elements);
    FloatVec x[group_vectors];
    WordVec any = hn::Zero(Words{});
    for (std::size_t v = 0; v < group_vectors; ++v) {
      const FloatVec g = load_wide(source + i + v * lanes);
      any = hn::Or(any, bits_of(g));
      x[v] = hn::Mul(g, inv);
      if constexpr (feedback) x[v] = hn::Add(x[v], hn::LoadU(d, residual + i + v * lanes));
    }
    if (!scan.every_group && hn::AllTrue(Words{}, hn::Eq(hn::ShiftLeft<1>(any), hn::Zero(Words{}))))
        [[unlikely]] {
      if constexpr (feedback) keep_residual<kMemory>(residual + i, residual_next + i, group);
      continue;
    }
    std::uint64_t candidates = bits_over(x, below);
    if (candidates != 0) {
      alignas(64) float values[group];
      auto too_large = hn::Gt(magnitude(x[0]), limit);
      for (std::size_t v = 0; v < group_vectors; ++v) {
        hn::Store(x[v], d, values + v * lanes);
        too_large = hn::Or(too_large, hn::Gt(magnitude(x[v]), limit));
      }
      for (; candidates != 0; candidates &= candidates - 1) {
        const auto at = static_cast<std::uint32_t>(hwy::Num0BitsBelowLS1Bit_Nonzero64(candidates));
        *out++ = {first_index + static_cast<std::uint32_t>(i) + at, values[at]};
      }
      if (!hn::AllFalse(Ints{}, too_large)) [[unlikely]] {
        overflow = true;
        if constexpr (feedback) {
          // A residual never takes up a NaN or Inf.
          for (std::size_t v = 0; v < group_vectors; ++v) {
            const auto finite = hn::RebindMask(d, hn::Lt(magnitude(x[v]), infinity));
            x[v] = hn::IfThenElse(finite, x[v], hn::LoadU(d, residual + i + v * lanes));
          }
        }
      }
    }
    if constexpr (feedback) {
      for (std::size_t v = 0; v < group_vectors; ++v) {
        store_residual<kMemory>(x[v], residual_next + i + v * lanes);
      }
    }
  }
  return out;
}

template <Memory kMemory, typename T>
TopkScanned scan_as(const TopkScan& scan) {
  constexpr bool feedback = kMemory != Memory::none;
  const T* source = static_cast<const T*>(scan.source);
  bool overflow = false;
  const std::size_t whole = static_cast<std::size_t>(scan.elements) / group * group;
  const std::size_t rest = static_cast<std::size_t>(scan.elements) - whole;
  TopkCandidate* end = scan_groups<kMemory>(scan, source, scan.residual, scan.residual_next, whole,
                                            0, scan.candidates, overflow);
  if (rest > 0) {
    constexpr Memory staged = feedback ? Memory::cached : Memory::none;
    alignas(64) T padded_source[group]{};
    alignas(64) float padded_residual[feedback ? group : 1]{};
    std::memcpy(padded_source, source + whole, rest * sizeof(T));
    if constexpr (feedback) {
      std::memcpy(padded_residual, scan.residual + whole, rest * sizeof(float));
    }
    end = scan_groups<staged>(scan, padded_source, padded_residual, padded_residual, group,
                              static_cast<std::uint32_t>(whole), end, overflow);
    if constexpr (feedback) {
      std::memcpy(scan.residual_next + whole, padded_residual, rest * sizeof(float));
    }
  }
  return {static_cast<std::uint32_t>(end - scan.candidates), overflow};
}

TopkScanned scan_stretch(const TopkScan& scan) {
  return visit_dtype(scan.dtype, [&](auto tag) HWY_ATTR {
    using T = typename decltype(tag)::type;
    switch (scan.memory) {
      case Memory::none:
        return scan_as<Memory::none, T>(scan);
      case Memory::cached:
        return scan_as<Memory::cached, T>(scan);
      case Memory::streamed:
        break;
    }
    return scan_as<Memory::streamed, T>(scan);
  });
}

}  // namespace
}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::compress::simd {
HWY_EXPORT(scan_stretch);
TopkScanned scan_topk(const TopkScan& scan) { return HWY_DYNAMIC_DISPATCH(scan_stretch)(scan); }
}  // namespace thinwire::compress::simd
#endif
