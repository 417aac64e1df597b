// What comes after decoding: averages, and results on their way to memory.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/stream.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include "simd/block-inl.hpp"
#include "simd/narrow-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {
namespace {

void scale_values(float* values, std::int64_t elements, float scale) {
  const Floats d;
  const FloatVec factor = hn::Set(d, scale);
  for (std::int64_t i = 0; i < elements; i += lanes) {
    hn::Store(hn::Mul(hn::Load(d, values + i), factor), d, values + i);
  }
}

template <typename T>
void write_as(const float* values, std::size_t elements, float scale, T* out, bool streamed) {
  constexpr std::size_t staged = 1024;
  const Floats d;
  const FloatVec factor = hn::Set(d, scale);
  for (std::size_t from = 0; from < elements; from += staged) {
    const std::size_t count = elements - from < staged ? elements - from : staged;
    alignas(64) T staging[staged];
    for (std::size_t i = 0; i < count; i += lanes) {
      store_narrow(hn::Mul(hn::Load(d, values + from + i), factor), staging + i);
    }
    const auto* bytes = reinterpret_cast<const std::byte*>(staging);
    auto* to = reinterpret_cast<std::byte*>(out + from);
    if (streamed) {
      stream_copy(bytes, to, count * sizeof(T));
    } else {
      std::memcpy(to, bytes, count * sizeof(T));
    }
  }
}

void write_values(const float* values, std::int64_t elements, float scale, DType dtype, void* out,
                  bool streamed) {
  const auto count = static_cast<std::size_t>(elements);
  switch (dtype) {
    case DType::f32:
      return write_as(values, count, scale, static_cast<float*>(out), streamed);
    case DType::f16:
      return write_as(values, count, scale, static_cast<Half*>(out), streamed);
    case DType::bf16:
      return write_as(values, count, scale, static_cast<BFloat16*>(out), streamed);
  }
}

}  // namespace
}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::compress::simd {

HWY_EXPORT(scale_values);
void scale_in_place(float* values, std::int64_t elements, float scale) {
  HWY_DYNAMIC_DISPATCH(scale_values)(values, elements, scale);
}

HWY_EXPORT(write_values);
void write_scaled(const float* values, std::int64_t elements, float scale, DType dtype, void* out,
                  bool streamed) {
  HWY_DYNAMIC_DISPATCH(write_values)(values, elements, scale, dtype, out, streamed);
}

void stream_fence() { hwy::FlushStream(); }

}  // namespace thinwire::compress::simd
#endif
