#include "thinwire/core/cuda/error_ring.hpp"

#include <algorithm>
#include <atomic>

#include "cuda/try.hpp"
#include "thinwire/core/cuda/memory.hpp"

namespace thinwire {

ErrorRing::ErrorRing(std::shared_ptr<MemoryResource> device_memory)
    : entries_{std::make_shared<PinnedMemory>(), capacity * sizeof(Entry), "error ring"},
      claimed_{std::move(device_memory), sizeof(std::uint32_t), "error ring"} {
  std::fill_n(entries_.as<Entry>(), capacity, Entry{});
  THINWIRE_CUDA_TRY(cudaDeviceSynchronize());  // the allocation may be ordered on another stream
  THINWIRE_CUDA_TRY(cudaMemset(claimed_.data(), 0, sizeof(std::uint32_t)));
  THINWIRE_CUDA_TRY(cudaDeviceSynchronize());
}

std::optional<DeviceError> ErrorRing::poll() {
  Entry& entry = entries_.as<Entry>()[next_ % capacity];
  const std::atomic_ref full{entry.full};
  if (full.load(std::memory_order_acquire) == 0) return std::nullopt;
  const DeviceError error = entry.error;
  full.store(0, std::memory_order_release);
  ++next_;
  return error;
}

}  // namespace thinwire
