#include "cuda/block_kernels.cuh"
#include "cuda/cast.cuh"

namespace thinwire::compress::cuda {
namespace {

struct Plain {
  using Word = std::uint32_t;
  static constexpr Codec codec = Codec::none;
  static constexpr bool keeps_zero = false;
  static constexpr bool scaled = false;
  static constexpr Word nan = canonical_nan_f32;

  __device__ explicit Plain(std::uint32_t /*largest*/) {}
  __device__ std::uint32_t scale_bits() const { return 0; }
  __device__ Word encode(float x) const { return __float_as_uint(x); }
  __device__ float decode(Word word) const { return __uint_as_float(word); }
};

}  // namespace

const SectionLauncher& none_launcher() {
  static const BlockLauncherOf<Cast<Plain>> launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
