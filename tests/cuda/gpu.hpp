#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "thinwire/core/cuda/device.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

/// What GPU tests share.
namespace thinwire::test {

/// First line of every test that needs a GPU.
#define SKIP_WITHOUT_GPU()                             \
  if (::thinwire::cuda_device_count() == 0)            \
  GTEST_SKIP() << "SKIPPED: this machine has no CUDA " \
                  "GPU"

inline void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error{cudaGetErrorString(code)};
}

/// A stream and tracked device memory that is ordered on it.
struct Gpu {
  CudaStream stream;
  std::shared_ptr<TrackingMemory> memory =
      std::make_shared<TrackingMemory>(std::make_shared<DeviceMemory>(stream.view()));

  Buffer buffer(std::size_t bytes) { return Buffer{memory, bytes, "test"}; }

  template <typename T>
  Buffer upload(std::span<const T> values) {
    Buffer result = buffer(values.size_bytes());
    copy(result.data(), values.data(), values.size_bytes());
    return result;
  }

  void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.view().handle()));
    stream.synchronize();
  }

  template <typename T>
  std::vector<T> download(const T* from, std::size_t count) {
    std::vector<T> result(count);
    copy(result.data(), from, count * sizeof(T));
    return result;
  }
};

}  // namespace thinwire::test
