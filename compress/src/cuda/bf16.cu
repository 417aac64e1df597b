#include "cuda/block_kernels.cuh"
#include "cuda/cast.cuh"

namespace thinwire::compress::cuda {
namespace {

struct Brain {
  using Word = std::uint16_t;
  static constexpr Codec codec = Codec::bf16;
  static constexpr bool keeps_zero = true;
  static constexpr bool scaled = false;
  static constexpr Word nan = canonical_nan_bf16;

  __device__ explicit Brain(std::uint32_t /*largest*/) {}
  __device__ std::uint32_t scale_bits() const { return 0; }
  __device__ Word encode(float x) const { return bf16_bits(x); }
  __device__ float decode(Word word) const { return from_bf16_bits(word); }
};

}  // namespace

const SectionLauncher& bf16_launcher() {
  static const BlockLauncherOf<Cast<Brain>> launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
