#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

/// Every block that a resource gives is aligned to at least this many bytes.
constexpr std::size_t memory_alignment = 64;

/// Where a plan's buffers come from. Thread-safe. `tag` names the use ("residual", "payload") in
/// reports and in errors; the same tag is given back at deallocation.
class MemoryResource {
 public:
  virtual ~MemoryResource() = default;

  /// `bytes` of uninitialised memory, aligned to memory_alignment; null for 0 bytes.
  /// Does not block. Throws OutOfMemory and is then unchanged.
  virtual void* allocate(std::size_t bytes, std::string_view tag) = 0;

  /// Gives back what allocate returned for the same bytes and tag. Never throws.
  virtual void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept = 0;
};

/// Aligned host memory straight from the system.
class HostMemory final : public MemoryResource {
 public:
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;
};

/// Keeps freed blocks by size for reuse, so that a steady state asks `upstream` for nothing. Asks
/// under the tag "pool"; its errors name the tag of the request.
class PoolMemory final : public MemoryResource {
 public:
  explicit PoolMemory(std::shared_ptr<MemoryResource> upstream);
  ~PoolMemory() override;
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;

  /// Returns every idle block to `upstream`.
  void trim() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What one tag used.
struct MemoryUse {
  std::string tag;
  std::size_t current = 0;  ///< bytes in use
  std::size_t peak = 0;     ///< largest `current` so far
  std::size_t count = 0;    ///< allocations so far
};

/// Counts what passes through to `upstream`.
class TrackingMemory final : public MemoryResource {
 public:
  explicit TrackingMemory(std::shared_ptr<MemoryResource> upstream);
  ~TrackingMemory() override;
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;

  MemoryUse total() const;                ///< all tags together, tag "total"
  std::vector<MemoryUse> by_tag() const;  ///< sorted by tag
  std::string report() const;             ///< by_tag() as a table for people

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Refuses what would take the bytes in use over `limit`, with an OutOfMemory that names request,
/// use and limit.
class LimitMemory final : public MemoryResource {
 public:
  LimitMemory(std::shared_ptr<MemoryResource> upstream, std::size_t limit);
  ~LimitMemory() override;
  void* allocate(std::size_t bytes, std::string_view tag) override;
  void deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The process-wide default: TrackingMemory over PoolMemory over LimitMemory (if
/// THINWIRE_MEMORY_LIMIT is set) over HostMemory.
std::shared_ptr<TrackingMemory> default_memory();

/// Owns one block of a resource; move-only. The bytes are uninitialised.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<MemoryResource> resource, std::size_t bytes, std::string tag);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::shared_ptr<MemoryResource> resource_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string tag_;
};

}  // namespace thinwire
