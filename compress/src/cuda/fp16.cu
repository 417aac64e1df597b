#include "cuda/block_kernels.cuh"
#include "cuda/cast.cuh"

namespace thinwire::compress::cuda {
namespace {

/// binary16 in units of a power of two that puts the largest magnitude into [2^14, 2^15).
struct ScaledHalf {
  using Word = std::uint16_t;
  static constexpr Codec codec = Codec::fp16;
  static constexpr bool keeps_zero = true;
  static constexpr bool scaled = true;
  static constexpr Word nan = canonical_nan_f16;

  __device__ explicit ScaledHalf(std::uint32_t largest) {
    if (largest < smallest_scaled_bits) return;
    const std::uint32_t exponent = (largest >> 23) - 14u;
    scale_ = __uint_as_float(exponent << 23);
    per_unit_ = __uint_as_float((254u - exponent) << 23);
  }
  __device__ void set_scale(std::uint32_t bits) { scale_ = __uint_as_float(bits); }
  __device__ std::uint32_t scale_bits() const { return __float_as_uint(scale_); }
  /// x / s exactly as rounded: 1 / s is a power of two too, and no denormal.
  __device__ Word encode(float x) const {
    return scale_ == 0.0f ? Word{0} : fp16_bits_of(x * per_unit_);
  }
  __device__ float decode(Word word) const { return scale_ * __half2float(__ushort_as_half(word)); }

 private:
  float scale_ = 0.0f;
  float per_unit_ = 0.0f;
};

}  // namespace

const SectionLauncher& fp16_launcher() {
  static const BlockLauncherOf<Cast<ScaledHalf>> launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
