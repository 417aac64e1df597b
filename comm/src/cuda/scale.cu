#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/scale.hpp"
#include "cuda/try.hpp"

namespace thinwire::comm::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t most_blocks = 4096;

template <typename T>
__global__ void scale_kernel(T* data, std::int64_t numel, const float* inv_scale,
                             const float* out_scale) {
  const float factor =
      (inv_scale != nullptr ? *inv_scale : 1.0f) * (out_scale != nullptr ? *out_scale : 1.0f);
  if (factor == 1.0f) return;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < numel;
       i += stride) {
    data[i] = static_cast<T>(static_cast<float>(data[i]) * factor);
  }
}

template <typename T>
void launch(TensorView tensor, const float* inv_scale, const float* out_scale, StreamView stream) {
  const auto blocks = std::min((tensor.numel + threads - 1) / threads, most_blocks);
  scale_kernel<<<static_cast<unsigned>(blocks), threads, 0, stream.handle()>>>(
      static_cast<T*>(tensor.data), tensor.numel, inv_scale, out_scale);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

}  // namespace

void scale_in_place(TensorView tensor, const float* inv_scale, const float* out_scale,
                    StreamView stream) {
  if (tensor.numel == 0) return;
  switch (tensor.dtype) {
    case DType::f32:
      return launch<float>(tensor, inv_scale, out_scale, stream);
    case DType::f16:
      return launch<__half>(tensor, inv_scale, out_scale, stream);
    case DType::bf16:
      return launch<__nv_bfloat16>(tensor, inv_scale, out_scale, stream);
  }
}

}  // namespace thinwire::comm::cuda
