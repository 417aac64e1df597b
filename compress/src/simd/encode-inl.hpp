// How a block codec runs over a stretch: error feedback, short blocks, non-finite blocks.

#if defined(THINWIRE_COMPRESS_SIMD_ENCODE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef THINWIRE_COMPRESS_SIMD_ENCODE_INL
#undef THINWIRE_COMPRESS_SIMD_ENCODE_INL
#else
#define THINWIRE_COMPRESS_SIMD_ENCODE_INL
#endif

#include <cstring>

#include "block_rules.hpp"
#include "simd/source-inl.hpp"
#include "thinwire/compress/header.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {

/// What an encoder calls for each group that it stores, in order.
template <typename BlockCodec, Memory kMemory, typename Source>
HWY_INLINE void beside_store(Source& source, const float* residual, std::size_t g) {
  source.beside_store(g);
  if constexpr (kMemory != Memory::none && BlockCodec::block >= long_block) {
    prefetch_group(residual + g * group, prefetch_beside_stores);
  }
}

/// Reads group g of a block: x = fl(fl(g * inv) + e) to `x`, and hands it to `statistic` while it
/// is in registers, if it is live or the statistic wants all. `kHalf`: g mod 2, for statistics with
/// lanes for either. Returns bit g if a number of the source is not zero.
template <bool kFeedback, std::size_t kHalf, typename Source, typename Statistic>
HWY_INLINE std::uint32_t load_group(Source& source, std::size_t g, FloatVec inv,
                                    const float* residual, float* HWY_RESTRICT x,
                                    Statistic& statistic) {
  source.beside_load(g);
  FloatVec values[group_vectors];
  source.load(g, values);
  WordVec any = hn::Zero(Words{});
  for (std::size_t v = 0; v < group_vectors; ++v) {
    const std::size_t i = g * group + v * lanes;
    any = hn::Or(any, bits_of(values[v]));
    values[v] = hn::Mul(values[v], inv);
    if constexpr (kFeedback) values[v] = hn::Add(values[v], hn::LoadU(Floats{}, residual + i));
    hn::Store(values[v], Floats{}, x + i);
  }
  // Shifted left, a zero of either sign is 0.
  const bool is_live = !hn::AllTrue(Words{}, hn::Eq(hn::ShiftLeft<1>(any), hn::Zero(Words{})));
  if (is_live || !Statistic::live_groups_only) statistic.template add<kHalf>(values);
  return static_cast<std::uint32_t>(is_live) << g;
}

/// The same for a whole block. Returns a bit a group.
template <Memory kMemory, std::size_t kElements, typename Source, typename Statistic>
HWY_INLINE std::uint32_t load_block(Source& source, float inv_scale, const float* residual,
                                    const float* residual_next, float* HWY_RESTRICT x,
                                    Statistic& statistic) {
  constexpr bool feedback = kMemory != Memory::none;
  const FloatVec inv = hn::Set(Floats{}, inv_scale);
  // Plain stores to another array than was read want its lines too.
  const bool fetch_next = kMemory == Memory::cached && residual_next != residual;
  std::uint32_t live = 0;
  const auto load = [&](std::size_t g, auto half) HWY_ATTR {
    if constexpr (feedback && kElements < long_block) {
      prefetch_group(residual + g * group, prefetch_beside_loads);
    }
    if (fetch_next) {
      prefetch_group(residual_next + g * group, kElements < long_block ? prefetch_beside_loads : 0);
    }
    live |= load_group<feedback, decltype(half)::value>(source, g, inv, residual, x, statistic);
  };
  for (std::size_t g = 0; g < kElements / group; g += 2) {
    load(g, std::integral_constant<std::size_t, 0>{});
    load(g + 1, std::integral_constant<std::size_t, 1>{});
  }
  return live;
}

/// Largest |x| as bits: NaN above Inf above every number.
template <bool kLiveGroupsOnly>
struct Largest {
  static constexpr bool live_groups_only = kLiveGroupsOnly;

  WordVec bits;

  HWY_INLINE Largest() : bits{hn::Zero(Words{})} {}
  template <std::size_t kHalf>
  HWY_INLINE void add(const FloatVec* x) {
    for (std::size_t v = 0; v < group_vectors; ++v) bits = hn::Max(bits, bits_of(hn::Abs(x[v])));
  }
  HWY_INLINE std::uint32_t total() const { return hn::GetLane(hn::MaxOfLanes(Words{}, bits)); }
};

/// Runs a block codec over a stretch. BlockCodec has
///   block, the elements of a full block; scale_bytes; value_bytes(elements);
///   encode<kMemory>(source, inv_scale, residual, residual_next, count, scale, values): a full
///   block of which the elements from `count` on are padding with zeros; false, and nothing
///   written, if it is non-finite. It calls beside_store();
///   write_non_finite(scale, values, count): what a decoder reads as NaN; both are zero before; and
///   decode_group(scale, values, g, to): group g of a block, to registers.
/// A short block passes through zero-padded copies, so that a codec sees full blocks only.
template <typename BlockCodec, Memory kMemory, typename Source>
HWY_INLINE std::uint32_t encode_blocks(const EncodeStretch& stretch, Source& source) {
  constexpr bool feedback = kMemory != Memory::none;
  constexpr auto block = static_cast<std::int64_t>(BlockCodec::block);
  std::uint32_t flags = 0;
  const float* residual = stretch.residual;
  float* residual_next = stretch.residual_next;
  std::byte* scale = stretch.scales;
  std::byte* values = stretch.values;

  const auto encode_one = [&](auto memory, auto& from, const float* e, float* e_next,
                              std::int64_t count, std::byte* to) HWY_ATTR {
    constexpr Memory kept = decltype(memory)::value;
    if (BlockCodec::template encode<kept>(from, stretch.inv_scale, e, e_next,
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

  const std::int64_t blocks = stretch.elements / block;
  for (std::int64_t b = 0; b < blocks; ++b) {
    if constexpr (kMemory == Memory::streamed) prepare_stream<BlockCodec::block>(residual_next);
    encode_one(std::integral_constant<Memory, kMemory>{}, source, residual, residual_next, block,
               values);
    source.next();
    if constexpr (feedback) {
      residual += block;
      residual_next += block;
    }
    scale += BlockCodec::scale_bytes;
    values += BlockCodec::value_bytes(block);
  }
  const auto rest = static_cast<std::size_t>(stretch.elements % block);
  if (rest == 0) return flags;

  using Element = typename Source::Element;
  constexpr Memory staged = feedback ? Memory::cached : Memory::none;
  alignas(64) Element padded_source[BlockCodec::block]{};
  alignas(64) float padded_residual[feedback ? BlockCodec::block : 1]{};
  alignas(64) std::byte padded_values[BlockCodec::value_bytes(BlockCodec::block)]{};
  source.load_rest(rest, padded_source);
  Gradients<BlockCodec, Element> padded{padded_source};
  if constexpr (feedback) std::memcpy(padded_residual, residual, rest * sizeof(float));
  encode_one(std::integral_constant<Memory, staged>{}, padded, padded_residual, padded_residual,
             static_cast<std::int64_t>(rest), padded_values);
  if constexpr (feedback) std::memcpy(residual_next, padded_residual, rest * sizeof(float));
  std::memcpy(values, padded_values, BlockCodec::value_bytes(rest));
  return flags;
}

template <typename BlockCodec, typename Source>
HWY_INLINE std::uint32_t encode_from(const EncodeStretch& stretch, Source source) {
  switch (stretch.memory) {
    case Memory::none:
      return encode_blocks<BlockCodec, Memory::none>(stretch, source);
    case Memory::cached:
      return encode_blocks<BlockCodec, Memory::cached>(stretch, source);
    case Memory::streamed:
      break;
  }
  return encode_blocks<BlockCodec, Memory::streamed>(stretch, source);
}

template <typename BlockCodec>
std::uint32_t encode_stretch(const EncodeStretch& stretch) {
  if (stretch.source == nullptr) {
    return encode_from<BlockCodec>(stretch, MeanOfPayloads<BlockCodec>{stretch.payloads});
  }
  return visit_dtype(stretch.dtype, [&](auto tag) HWY_ATTR {
    using T = typename decltype(tag)::type;
    return encode_from<BlockCodec>(stretch,
                                   Gradients<BlockCodec, T>{static_cast<const T*>(stretch.source)});
  });
}

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
