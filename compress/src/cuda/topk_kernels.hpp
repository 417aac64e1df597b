#pragma once

#include <array>

#include "cuda/launch.hpp"
#include "cuda/try.hpp"

namespace thinwire::compress::cuda {

/// What topk_launcher() is made of. Each compiled in a file of its own.
void topk_encode(const EncodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream);
void topk_reduce_encode(const ReduceEncodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream);
void topk_reduce(const ReduceLaunch& launch, std::uint32_t tiles, cudaStream_t stream);
void topk_decode(const DecodeLaunch& launch, std::uint32_t tiles, cudaStream_t stream);

/// Starts a selection: `blocks` thread blocks for each of `runs`. Those of a run meet at barriers,
/// so they are started together.
template <typename Launch>
void start_together(void (*kernel)(Launch), const Launch& launch, std::uint32_t blocks,
                    std::uint32_t runs, cudaStream_t stream) {
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3{blocks * runs};
  config.blockDim = dim3{select_threads};
  config.stream = stream;
  config.attrs = &together;
  config.numAttrs = blocks > 1 ? 1 : 0;
  THINWIRE_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, launch));
}

}  // namespace thinwire::compress::cuda
