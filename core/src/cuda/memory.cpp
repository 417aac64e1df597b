#include "thinwire/core/cuda/memory.hpp"

#include <cstdint>

#include "cuda/try.hpp"

namespace thinwire {
namespace {

/// Tells a refusal, which the caller may survive, from a broken device.
void check_allocation(cudaError_t code, const char* call, std::size_t bytes, std::string_view tag) {
  if (code == cudaSuccess) return;
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemory{tag, bytes, 0, 0};
  }
  detail::throw_cuda_error(code, call, __FILE__, __LINE__);
}

}  // namespace

DeviceMemory::DeviceMemory(StreamView stream) : stream_{stream} {
  int device = 0;
  THINWIRE_CUDA_TRY(cudaGetDevice(&device));
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  THINWIRE_CUDA_TRY(cudaMemPoolCreate(&pool_, &properties));
  std::uint64_t keep_all = UINT64_MAX;
  THINWIRE_CUDA_TRY(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
}

DeviceMemory::~DeviceMemory() {
  if (pool_ != nullptr) THINWIRE_CUDA_LOG(cudaMemPoolDestroy(pool_));
}

void* DeviceMemory::allocate(std::size_t bytes, std::string_view tag) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  check_allocation(cudaMallocFromPoolAsync(&data, bytes, pool_, stream_.handle()),
                   "cudaMallocFromPoolAsync", bytes, tag);
  return data;
}

void DeviceMemory::deallocate(void* data, std::size_t, std::string_view) noexcept {
  if (data != nullptr) THINWIRE_CUDA_LOG(cudaFreeAsync(data, stream_.handle()));
}

void* ExchangeMemory::allocate(std::size_t bytes, std::string_view tag) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  check_allocation(cudaMalloc(&data, bytes), "cudaMalloc", bytes, tag);
  return data;
}

void ExchangeMemory::deallocate(void* data, std::size_t, std::string_view) noexcept {
  if (data != nullptr) THINWIRE_CUDA_LOG(cudaFree(data));
}

void* PinnedMemory::allocate(std::size_t bytes, std::string_view tag) {
  if (bytes == 0) return nullptr;
  void* data = nullptr;
  check_allocation(cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable),
                   "cudaHostAlloc", bytes, tag);
  return data;
}

void PinnedMemory::deallocate(void* data, std::size_t, std::string_view) noexcept {
  if (data != nullptr) THINWIRE_CUDA_LOG(cudaFreeHost(data));
}

}  // namespace thinwire
