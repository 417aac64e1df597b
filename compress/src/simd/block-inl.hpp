// What the block codecs share, compiled once for every target.

#if defined(THINWIRE_COMPRESS_SIMD_BLOCK_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef THINWIRE_COMPRESS_SIMD_BLOCK_INL
#undef THINWIRE_COMPRESS_SIMD_BLOCK_INL
#else
#define THINWIRE_COMPRESS_SIMD_BLOCK_INL
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstring>

#include "block_rules.hpp"
#include "simd/kernels.hpp"
#include "thinwire/compress/header.hpp"

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

/// Elements that a software prefetch runs ahead: far enough for DRAM, near enough for the L1.
constexpr std::size_t prefetch_elements = 640;
constexpr std::size_t cache_line = 64;

/// Fetches the lines of a group that lies prefetch_elements ahead. It may lie outside the array.
template <typename T>
HWY_INLINE void prefetch_group(const T* first) {
  const std::uintptr_t ahead =
      reinterpret_cast<std::uintptr_t>(first) + prefetch_elements * sizeof(T);
  for (std::size_t at = 0; at < group * sizeof(T); at += cache_line) {
    hwy::Prefetch(reinterpret_cast<const char*>(ahead + at));
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

/// Reads one pair of groups: x = fl(fl(g * inv) + e) to `x`, and hands the live groups (all groups,
/// if the statistic says so) to `statistic` while they are in registers. Returns two bits: group j
/// has a g that is not zero.
template <bool kFeedback, typename T, typename Statistic>
HWY_INLINE std::uint32_t load_pair(const T* source, float inv_scale, const float* residual,
                                   float* HWY_RESTRICT x, Statistic& statistic) {
  const Floats d;
  const auto inv = hn::Set(d, inv_scale);
  std::uint32_t live = 0;
  for (std::size_t half = 0; half < 2; ++half) {
    prefetch_group(source + half * group);
    if constexpr (kFeedback) prefetch_group(residual + half * group);
    FloatVec values[group_vectors];
    WordVec any = hn::Zero(Words{});
    for (std::size_t v = 0; v < group_vectors; ++v) {
      const std::size_t i = half * group + v * lanes;
      const FloatVec g = load_wide(source + i);
      any = hn::Or(any, bits_of(g));
      FloatVec sum = hn::Mul(g, inv);
      if constexpr (kFeedback) sum = hn::Add(sum, hn::LoadU(d, residual + i));
      hn::Store(sum, d, x + i);
      values[v] = sum;
    }
    // Shifted left, a zero of either sign is 0.
    const bool is_live = !hn::AllTrue(Words{}, hn::Eq(hn::ShiftLeft<1>(any), hn::Zero(Words{})));
    live |= static_cast<std::uint32_t>(is_live) << half;
    if (is_live || !Statistic::live_groups_only) statistic.add(half, values);
  }
  return live;
}

/// The same for a block of whole pairs. Returns a bit a group.
template <bool kFeedback, std::size_t kElements, typename T, typename Statistic>
HWY_INLINE std::uint32_t load_block(const T* source, float inv_scale, const float* residual,
                                    float* HWY_RESTRICT x, Statistic& statistic) {
  std::uint32_t live = 0;
  for (std::size_t i = 0; i < kElements; i += 2 * group) {
    live |= load_pair<kFeedback>(source + i, inv_scale, kFeedback ? residual + i : nullptr, x + i,
                                 statistic)
            << (i / group);
  }
  return live;
}

/// Largest |x| as bits: NaN above Inf above every number.
template <bool kLiveGroupsOnly>
struct Largest {
  static constexpr bool live_groups_only = kLiveGroupsOnly;

  WordVec bits;

  HWY_INLINE Largest() : bits{hn::Zero(Words{})} {}
  HWY_INLINE void add(std::size_t, const FloatVec* x) {
    for (std::size_t v = 0; v < group_vectors; ++v) bits = hn::Max(bits, bits_of(hn::Abs(x[v])));
  }
  HWY_INLINE std::uint32_t total() const { return hn::GetLane(hn::MaxOfLanes(Words{}, bits)); }
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

/// Runs a block codec over a stretch. BlockCodec has
///   block, the elements of a full block; scale_bytes; value_bytes(elements);
///   encode<kMemory>(source, inv_scale, residual, residual_next, count, scale, values): a full
///   block of which the elements from `count` on are padding with zeros; false, and nothing
///   written, if it is non-finite;
///   write_non_finite(scale, values, count): what a decoder reads as NaN; both are zero before; and
///   decode<kAdd>(scale, values, out).
/// A short block passes through zero-padded copies, so that a codec sees full blocks only.
template <typename BlockCodec, Memory kMemory, typename T>
HWY_INLINE std::uint32_t encode_blocks(const EncodeStretch& stretch) {
  constexpr auto block = static_cast<std::int64_t>(BlockCodec::block);
  std::uint32_t flags = 0;
  const T* source = static_cast<const T*>(stretch.source);
  const float* residual = stretch.residual;
  float* residual_next = stretch.residual_next;
  std::byte* scale = stretch.scales;
  std::byte* values = stretch.values;

  const auto encode_one = [&](auto memory, const T* g, const float* e, float* e_next,
                              std::int64_t count, std::byte* to) HWY_ATTR {
    constexpr Memory kept = decltype(memory)::value;
    if (BlockCodec::template encode<kept>(g, stretch.inv_scale, e, e_next,
                                          static_cast<std::size_t>(count), scale, to)) [[likely]] {
      return;
    }
    keep_residual<kept>(e, e_next, BlockCodec::block);
    const bool zeroed = stretch.non_finite == NonFinite::zero;
    flags |= zeroed ? flag_zeroed : flag_non_finite;
    std::memset(scale, 0, BlockCodec::scale_bytes);
    std::memset(to, 0, BlockCodec::value_bytes(static_cast<std::size_t>(count)));
    if (!zeroed) BlockCodec::write_non_finite(scale, to, static_cast<std::size_t>(count));
  };

  std::int64_t left = stretch.elements;
  for (; left >= block; left -= block) {
    encode_one(std::integral_constant<Memory, kMemory>{}, source, residual, residual_next, block,
               values);
    source += block;
    if constexpr (kMemory != Memory::none) {
      residual += block;
      residual_next += block;
    }
    scale += BlockCodec::scale_bytes;
    values += BlockCodec::value_bytes(block);
  }
  if (left == 0) return flags;

  constexpr bool feedback = kMemory != Memory::none;
  constexpr Memory staged = feedback ? Memory::cached : Memory::none;
  const auto count = static_cast<std::size_t>(left);
  alignas(64) T padded_source[BlockCodec::block]{};
  alignas(64) float padded_residual[feedback ? BlockCodec::block : 1]{};
  alignas(64) std::byte padded_values[BlockCodec::value_bytes(BlockCodec::block)]{};
  std::memcpy(padded_source, source, count * sizeof(T));
  if constexpr (feedback) std::memcpy(padded_residual, residual, count * sizeof(float));
  encode_one(std::integral_constant<Memory, staged>{}, padded_source, padded_residual,
             padded_residual, left, padded_values);
  if constexpr (feedback) std::memcpy(residual_next, padded_residual, count * sizeof(float));
  std::memcpy(values, padded_values, BlockCodec::value_bytes(left));
  return flags;
}

template <typename BlockCodec>
std::uint32_t encode_stretch(const EncodeStretch& stretch) {
  return visit_dtype(stretch.dtype, [&](auto tag) HWY_ATTR {
    using T = typename decltype(tag)::type;
    switch (stretch.memory) {
      case Memory::none:
        return encode_blocks<BlockCodec, Memory::none, T>(stretch);
      case Memory::cached:
        return encode_blocks<BlockCodec, Memory::cached, T>(stretch);
      case Memory::streamed:
        break;
    }
    return encode_blocks<BlockCodec, Memory::streamed, T>(stretch);
  });
}

/// Stores a decoded vector, or adds it to what is there.
template <bool kAdd>
HWY_INLINE void put_value(FloatVec value, float* to) {
  if constexpr (kAdd) value = hn::Add(hn::Load(Floats{}, to), value);
  hn::Store(value, Floats{}, to);
}

template <typename BlockCodec, bool kAdd>
HWY_INLINE void decode_blocks(const DecodeStretch& stretch) {
  constexpr auto block = static_cast<std::int64_t>(BlockCodec::block);
  const std::byte* scale = stretch.scales;
  const std::byte* values = stretch.values;
  float* out = stretch.out;
  std::int64_t left = stretch.elements;
  for (; left >= block; left -= block) {
    BlockCodec::template decode<kAdd>(scale, values, out);
    scale += BlockCodec::scale_bytes;
    values += BlockCodec::value_bytes(block);
    out += block;
  }
  if (left == 0) return;
  const auto count = static_cast<std::size_t>(left);
  alignas(64) std::byte padded_values[BlockCodec::value_bytes(BlockCodec::block)]{};
  alignas(64) float padded_out[BlockCodec::block]{};
  std::memcpy(padded_values, values, BlockCodec::value_bytes(count));
  std::memcpy(padded_out, out, count * sizeof(float));
  BlockCodec::template decode<kAdd>(scale, padded_values, padded_out);
  std::memcpy(out, padded_out, count * sizeof(float));
}

template <typename BlockCodec>
void decode_stretch(const DecodeStretch& stretch) {
  if (stretch.add) {
    decode_blocks<BlockCodec, true>(stretch);
  } else {
    decode_blocks<BlockCodec, false>(stretch);
  }
}

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
