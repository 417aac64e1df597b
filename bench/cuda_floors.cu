#include "cuda_floors.hpp"

namespace thinwire::bench {
namespace {

constexpr int threads = 256;
constexpr int vectors_per_thread = 4;

__global__ void mix_kernel(const float4* g, float4* e, std::int64_t vectors) {
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * threads * vectors_per_thread + threadIdx.x;
  float4 a[vectors_per_thread];
  float4 b[vectors_per_thread];
#pragma unroll
  for (int i = 0; i < vectors_per_thread; ++i) {
    const std::int64_t at = first + i * threads;
    if (at < vectors) a[i] = g[at], b[i] = e[at];
  }
#pragma unroll
  for (int i = 0; i < vectors_per_thread; ++i) {
    const std::int64_t at = first + i * threads;
    if (at < vectors) {
      e[at] = {a[i].x + b[i].x, a[i].y + b[i].y, a[i].z + b[i].z, a[i].w + b[i].w};
    }
  }
}

}  // namespace

void enqueue_mix(const float* g, float* e, std::int64_t n, CUstream_st* stream) {
  const std::int64_t vectors = n / 4;
  const std::int64_t per_block = threads * vectors_per_thread;
  mix_kernel<<<static_cast<unsigned>((vectors + per_block - 1) / per_block), threads, 0, stream>>>(
      reinterpret_cast<const float4*>(g), reinterpret_cast<float4*>(e), vectors);
}

}  // namespace thinwire::bench
