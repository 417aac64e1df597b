#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "tcp_ranks.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

/// Tests with one process a GPU.
namespace thinwire::comm {

using Floats = std::vector<float>;
constexpr Timeout patience{60000};

/// GPUs here, asked in a process of its own: one that has used CUDA cannot fork.
inline int gpu_count() {
  static const int count = [] {
    return WEXITSTATUS(run_tcp_processes(1, [](int) -> bool {
      int gpus = 0;
      if (cudaGetDeviceCount(&gpus) != cudaSuccess) gpus = 0;
      _exit(gpus);
    })[0]);
  }();
  return count;
}

/// The ranks a test runs with: 4, 2, or 1 if a smaller machine will do.
inline int ranks_here() { return std::min(4, gpu_count()); }

#define EXPECT_OR_FAIL(condition)                                                  \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      return false;                                                                \
    }                                                                              \
  } while (false)

/// body(communicator) in `ranks` processes with a GPU each; every one must return true.
inline void on_gpus(int ranks, const std::function<bool(Communicator&)>& body) {
  const int port = free_port();
  const auto statuses = run_tcp_processes(ranks, [&](int rank) {
    cudaSetDevice(rank);
    const auto communicator =
        make_nccl_communicator(rendezvous_of(rank, ranks, port, patience), {.timeout = patience});
    return body(*communicator);
  });
  for (int rank = 0; rank < ranks; ++rank) {
    EXPECT_EQ(statuses[static_cast<std::size_t>(rank)], 0) << "rank " << rank;
  }
}

struct DeviceFloats {
  explicit DeviceFloats(std::size_t count)
      : buffer{std::make_shared<ExchangeMemory>(), count * sizeof(float), "test"} {}
  explicit DeviceFloats(const Floats& values) : DeviceFloats{values.size()} { put(values); }
  void put(const Floats& values) {
    cudaMemcpy(buffer.data(), values.data(), buffer.size(), cudaMemcpyHostToDevice);
  }
  Floats get() const {
    cudaDeviceSynchronize();
    Floats values(buffer.size() / sizeof(float));
    cudaMemcpy(values.data(), buffer.data(), buffer.size(), cudaMemcpyDeviceToHost);
    return values;
  }
  TensorView tensor() const {
    return {buffer.data(), static_cast<std::int64_t>(buffer.size() / sizeof(float)), DType::f32,
            Device::cuda};
  }
  ByteView bytes() const { return {buffer.data(), buffer.size(), Device::cuda}; }
  Buffer buffer;
};

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline Floats random_gradients(std::int64_t elements, int rank, int step) {
  std::mt19937 random{static_cast<std::uint32_t>(1000 * rank + step)};
  std::normal_distribution<float> normal;
  Floats values(static_cast<std::size_t>(elements));
  for (float& value : values) value = normal(random);
  return values;
}

class NcclGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (gpu_count() == 0) GTEST_SKIP() << "no GPU here";
  }
};

}  // namespace thinwire::comm
