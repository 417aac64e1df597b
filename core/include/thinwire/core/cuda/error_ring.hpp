#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "thinwire/core/memory_resource.hpp"

namespace thinwire {

/// What a kernel found wrong. `code` belongs to the module whose kernel it was.
struct DeviceError {
  std::uint64_t sequence = 0;
  std::uint32_t code = 0;
  std::int32_t peer = -1;
  std::uint64_t expected = 0;
  std::uint64_t got = 0;
};

/// A ring of errors in mapped pinned memory: kernels write without anybody's help, the host reads
/// without stopping the GPU. While an entry waits for the host, kernels that come to it drop
/// theirs: the first writer wins. poll() is for one thread at a time.
class ErrorRing {
 public:
  /// Where kernels write; core/src/cuda/error_ring.cuh has the device side.
  struct Entry {
    DeviceError error;
    std::uint32_t full;  ///< the host may read `error`
    std::uint32_t reserved;
  };
  struct DeviceHandle {
    Entry* entries = nullptr;          ///< mapped
    std::uint32_t* claimed = nullptr;  ///< device memory: entries claimed so far
  };
  static constexpr std::uint32_t capacity = 64;

  /// `device_memory`: for the counter of claims. Blocks. Throws OutOfMemory or CudaError.
  explicit ErrorRing(std::shared_ptr<MemoryResource> device_memory);

  DeviceHandle device() const { return {entries_.as<Entry>(), claimed_.as<std::uint32_t>()}; }

  /// The oldest error that the host has not seen. Does not block.
  std::optional<DeviceError> poll();

 private:
  Buffer entries_;
  Buffer claimed_;
  std::uint32_t next_ = 0;
};

}  // namespace thinwire
