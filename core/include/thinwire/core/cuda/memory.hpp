#pragma once

#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/stream.hpp"

struct CUmemPoolHandle_st;  // cudaMemPool_t is CUmemPoolHandle_st*

/// Memory that GPUs read and write, as resources: TrackingMemory and LimitMemory work on top.
namespace thinwire {

/// Device memory of the current device from a pool of its own (cudaMallocAsync), which keeps freed
/// blocks. Ordered on `stream`: a block may be used there at once, on another stream after an event
/// that was recorded on `stream` after the allocation; at deallocation, likewise, work of other
/// streams on it must come before what `stream` holds.
class DeviceMemory final : public MemoryResource {
 public:
  /// Throws CudaError. The stream must outlive the resource.
  explicit DeviceMemory(StreamView stream);
  ~DeviceMemory() override;
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;

 private:
  StreamView stream_;
  CUmemPoolHandle_st* pool_ = nullptr;
};

/// Device memory straight from cudaMalloc, for buffers that live as long as a plan and are
/// registered with a transport. May block for the whole device.
class ExchangeMemory final : public MemoryResource {
 public:
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;
};

/// Pinned host memory that every device can read and write at the same address. May block for the
/// whole device.
class PinnedMemory final : public MemoryResource {
 public:
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;
};

}  // namespace thinwire
