#include "thinwire/core/memory_resource.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire {
namespace {

/// A block of the pool outlives its uses, so that upstream knows it under a tag of its own.
constexpr std::string_view pool_tag = "pool";

std::size_t rounded(std::size_t bytes) {
  return (bytes + memory_alignment - 1) / memory_alignment * memory_alignment;
}

}  // namespace

// ---- HostMemory ----

void* HostMemory::allocate(std::size_t bytes, std::string_view tag) {
  if (bytes == 0) return nullptr;
  void* data =
      bytes > rounded(bytes) ? nullptr : std::aligned_alloc(memory_alignment, rounded(bytes));
  if (data == nullptr) throw OutOfMemory{tag, bytes, 0, 0};
  return data;
}

void HostMemory::deallocate(void* data, std::size_t, std::string_view) noexcept { std::free(data); }

// ---- PoolMemory ----

struct PoolMemory::Impl {
  std::shared_ptr<MemoryResource> upstream;
  std::mutex mutex;
  std::unordered_map<std::size_t, std::vector<void*>> idle;  // by rounded size
};

PoolMemory::PoolMemory(std::shared_ptr<MemoryResource> upstream) : impl_{new Impl} {
  impl_->upstream = std::move(upstream);
}

PoolMemory::~PoolMemory() { trim(); }

void* PoolMemory::allocate(std::size_t bytes, std::string_view tag) {
  if (bytes == 0) return nullptr;
  {
    const std::lock_guard lock{impl_->mutex};
    if (const auto found = impl_->idle.find(rounded(bytes));
        found != impl_->idle.end() && !found->second.empty()) {
      void* data = found->second.back();
      found->second.pop_back();
      return data;
    }
  }
  const auto ask_upstream = [&] { return impl_->upstream->allocate(rounded(bytes), pool_tag); };
  if (rounded(bytes) < bytes) throw OutOfMemory{tag, bytes, 0, 0};
  try {
    return ask_upstream();
  } catch (const OutOfMemory&) {
    trim();  // idle blocks of other sizes may be what is missing
  }
  try {
    return ask_upstream();
  } catch (const OutOfMemory& error) {
    throw OutOfMemory{tag, bytes, error.in_use, error.limit};
  }
}

void PoolMemory::deallocate(void* data, std::size_t bytes, std::string_view) noexcept {
  if (data == nullptr) return;
  try {
    const std::lock_guard lock{impl_->mutex};
    impl_->idle[rounded(bytes)].push_back(data);
  } catch (...) {
    impl_->upstream->deallocate(data, rounded(bytes), pool_tag);
  }
}

void PoolMemory::trim() noexcept {
  const std::lock_guard lock{impl_->mutex};
  for (auto& [bytes, blocks] : impl_->idle) {
    for (void* block : blocks) impl_->upstream->deallocate(block, bytes, pool_tag);
  }
  impl_->idle.clear();
}

// ---- TrackingMemory ----

struct TrackingMemory::Impl {
  std::shared_ptr<MemoryResource> upstream;
  mutable std::mutex mutex;
  MemoryUse total{.tag = "total"};
  std::map<std::string, MemoryUse, std::less<>> tags;

  static void add(MemoryUse& use, std::size_t bytes) {
    use.current += bytes;
    use.peak = std::max(use.peak, use.current);
    ++use.count;
  }
};

TrackingMemory::TrackingMemory(std::shared_ptr<MemoryResource> upstream) : impl_{new Impl} {
  impl_->upstream = std::move(upstream);
}

TrackingMemory::~TrackingMemory() = default;

void* TrackingMemory::allocate(std::size_t bytes, std::string_view tag) {
  if (bytes == 0) return nullptr;
  MemoryUse* use = nullptr;
  {
    const std::lock_guard lock{impl_->mutex};
    auto found = impl_->tags.find(tag);
    if (found == impl_->tags.end()) {
      found = impl_->tags.emplace(std::string{tag}, MemoryUse{.tag = std::string{tag}}).first;
    }
    use = &found->second;  // map nodes do not move
  }
  void* data = impl_->upstream->allocate(bytes, tag);
  const std::lock_guard lock{impl_->mutex};
  Impl::add(*use, bytes);
  Impl::add(impl_->total, bytes);
  return data;
}

void TrackingMemory::deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept {
  if (data == nullptr) return;
  {
    const std::lock_guard lock{impl_->mutex};
    if (const auto found = impl_->tags.find(tag); found != impl_->tags.end()) {
      found->second.current -= bytes;
    }
    impl_->total.current -= bytes;
  }
  impl_->upstream->deallocate(data, bytes, tag);
}

MemoryUse TrackingMemory::total() const {
  const std::lock_guard lock{impl_->mutex};
  return impl_->total;
}

std::vector<MemoryUse> TrackingMemory::by_tag() const {
  const std::lock_guard lock{impl_->mutex};
  std::vector<MemoryUse> result;
  for (const auto& [tag, use] : impl_->tags) result.push_back(use);
  return result;
}

std::string TrackingMemory::report() const {
  std::string text = fmt::format("{:<16} {:>14} {:>14} {:>8}\n", "tag", "current", "peak", "count");
  auto rows = by_tag();
  rows.push_back(total());
  for (const auto& row : rows) {
    text += fmt::format("{:<16} {:>14} {:>14} {:>8}\n", row.tag, row.current, row.peak, row.count);
  }
  return text;
}

// ---- LimitMemory ----

struct LimitMemory::Impl {
  std::shared_ptr<MemoryResource> upstream;
  std::size_t limit = 0;
  std::mutex mutex;
  std::size_t in_use = 0;
};

LimitMemory::LimitMemory(std::shared_ptr<MemoryResource> upstream, std::size_t limit)
    : impl_{new Impl} {
  impl_->upstream = std::move(upstream);
  impl_->limit = limit;
}

LimitMemory::~LimitMemory() = default;

void* LimitMemory::allocate(std::size_t bytes, std::string_view tag) {
  const std::lock_guard lock{impl_->mutex};
  if (bytes > impl_->limit - impl_->in_use) {
    throw OutOfMemory{tag, bytes, impl_->in_use, impl_->limit};
  }
  void* data = impl_->upstream->allocate(bytes, tag);
  impl_->in_use += bytes;
  return data;
}

void LimitMemory::deallocate(void* data, std::size_t bytes, std::string_view tag) noexcept {
  if (data == nullptr) return;
  impl_->upstream->deallocate(data, bytes, tag);
  const std::lock_guard lock{impl_->mutex};
  impl_->in_use -= bytes;
}

std::shared_ptr<TrackingMemory> default_memory() {
  static const auto instance = [] {
    std::shared_ptr<MemoryResource> base = std::make_shared<HostMemory>();
    if (const auto limit = config().memory_limit; limit != 0) {
      base = std::make_shared<LimitMemory>(std::move(base), limit);
    }
    return std::make_shared<TrackingMemory>(std::make_shared<PoolMemory>(std::move(base)));
  }();
  return instance;
}

// ---- Buffer ----

Buffer::Buffer(std::shared_ptr<MemoryResource> resource, std::size_t bytes, std::string tag)
    : resource_{std::move(resource)}, size_{bytes}, tag_{std::move(tag)} {
  data_ = static_cast<std::byte*>(resource_->allocate(size_, tag_));
}

Buffer::~Buffer() {
  if (data_ != nullptr) resource_->deallocate(data_, size_, tag_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : resource_{std::move(other.resource_)},
      data_{std::exchange(other.data_, nullptr)},
      size_{std::exchange(other.size_, 0)},
      tag_{std::move(other.tag_)} {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) resource_->deallocate(data_, size_, tag_);
    resource_ = std::move(other.resource_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    tag_ = std::move(other.tag_);
  }
  return *this;
}

}  // namespace thinwire
