#include "cuda/topk_kernels.hpp"

namespace thinwire::compress::cuda {
namespace {

class TopkLauncher final : public SectionLauncher {
 public:
  void encode(const EncodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream) const override {
    topk_encode(launch, tiles, stream);
  }
  void reduce_encode(const ReduceEncodeLaunch& launch, std::uint32_t tiles,
                     cudaStream_t stream) const override {
    topk_reduce_encode(launch, tiles, stream);
  }
  void reduce(const ReduceLaunch& launch, std::uint32_t tiles, cudaStream_t stream) const override {
    topk_reduce(launch, tiles, stream);
  }
  void decode(const DecodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream) const override {
    topk_decode(launch, tiles, stream);
  }
};

}  // namespace

const SectionLauncher& topk_launcher() {
  static const TopkLauncher launcher;
  return launcher;
}

}  // namespace thinwire::compress::cuda
