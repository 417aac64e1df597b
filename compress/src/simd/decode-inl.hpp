// How a block codec comes back: from registers to memory.

#if defined(THINWIRE_COMPRESS_SIMD_DECODE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef THINWIRE_COMPRESS_SIMD_DECODE_INL
#undef THINWIRE_COMPRESS_SIMD_DECODE_INL
#else
#define THINWIRE_COMPRESS_SIMD_DECODE_INL
#endif

#include <cstring>
#include <type_traits>

#include "simd/narrow-inl.hpp"
#include "simd/source-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {

/// out = fl(value * scale) of `blocks` full blocks, narrowed.
template <typename BlockCodec, bool kStreamed, typename Source, typename T>
HWY_INLINE void decode_blocks(Source& source, std::size_t blocks, float scale, T* out) {
  const FloatVec factor = hn::Set(Floats{}, scale);
  for (std::size_t b = 0; b < blocks; ++b, source.next()) {
    if constexpr (kStreamed) prepare_stream<BlockCodec::block>(out);
    for (std::size_t g = 0; g * group < BlockCodec::block; ++g) {
      if constexpr (!kStreamed) prefetch_group(out, prefetch_beside_loads);
      FloatVec values[group_vectors];
      source.load(g, values);
      for (std::size_t v = 0; v < group_vectors; ++v, out += lanes) {
        const FloatVec value = hn::Mul(values[v], factor);
        if constexpr (kStreamed) {
          hn::Stream(canonical(value), Floats{}, out);
        } else {
          store_narrow(value, out);
        }
      }
    }
  }
}

template <typename BlockCodec, typename Source, typename T>
HWY_INLINE void decode_from(const DecodeStretch& stretch, Source source, T* out) {
  constexpr std::size_t block = BlockCodec::block;
  constexpr std::size_t staged = 1024;
  const auto elements = static_cast<std::size_t>(stretch.elements);
  const std::size_t blocks = elements / block;
  alignas(64) T staging[staged];
  if (!stretch.streamed) {
    decode_blocks<BlockCodec, false>(source, blocks, stretch.scale, out);
  } else if (std::is_same_v<T, float> && reinterpret_cast<std::uintptr_t>(out) % 64 == 0) {
    // The cast is for the other types, which do not come here.
    decode_blocks<BlockCodec, true>(source, blocks, stretch.scale, reinterpret_cast<float*>(out));
  } else {
    for (std::size_t b = 0; b < blocks; b += staged / block) {
      const std::size_t count = blocks - b < staged / block ? blocks - b : staged / block;
      decode_blocks<BlockCodec, false>(source, count, stretch.scale, staging);
      stream_copy(reinterpret_cast<const std::byte*>(staging),
                  reinterpret_cast<std::byte*>(out + b * block), count * block * sizeof(T));
    }
  }
  const std::size_t rest = elements % block;
  if (rest == 0) return;
  alignas(64) float values[block]{};
  source.load_rest(rest, values);
  const FloatVec factor = hn::Set(Floats{}, stretch.scale);
  for (std::size_t i = 0; i < block; i += lanes) {
    store_narrow(hn::Mul(hn::Load(Floats{}, values + i), factor), staging + i);
  }
  std::memcpy(out + blocks * block, staging, rest * sizeof(T));
}

template <typename BlockCodec>
void decode_stretch(const DecodeStretch& stretch) {
  visit_dtype(stretch.dtype, [&](auto tag) HWY_ATTR {
    using T = typename decltype(tag)::type;
    T* out = static_cast<T*>(stretch.out);
    if (stretch.mean) {
      decode_from<BlockCodec>(stretch, MeanOfPayloads<BlockCodec>{stretch.payloads}, out);
    } else {
      decode_from<BlockCodec>(
          stretch, OnePayload<BlockCodec>{stretch.payloads.scales, stretch.payloads.values}, out);
    }
  });
}

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
