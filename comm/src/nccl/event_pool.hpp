#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_functions.hpp"

namespace thinwire::comm {

/// Events for reuse, so that a steady state makes none. Thread-safe.
class EventPool {
  struct Shelf {
    ~Shelf() {
      for (cudaEvent_t event : idle) cuda.destroy_event(event);
    }
    const CudaFunctions& cuda;
    std::mutex mutex;
    std::vector<cudaEvent_t> idle;
  };

 public:
  /// Gives its event back when destroyed; move-only, null by default.
  class Event {
   public:
    Event() = default;
    ~Event() {
      if (event_ == nullptr) return;
      const std::scoped_lock lock{shelf_->mutex};
      shelf_->idle.push_back(event_);
    }
    Event(Event&& other) noexcept
        : shelf_{std::move(other.shelf_)}, event_{std::exchange(other.event_, nullptr)} {}
    Event& operator=(Event&& other) noexcept {
      std::swap(shelf_, other.shelf_);
      std::swap(event_, other.event_);
      return *this;
    }
    cudaEvent_t get() const { return event_; }

   private:
    friend class EventPool;
    Event(std::shared_ptr<Shelf> shelf, cudaEvent_t event)
        : shelf_{std::move(shelf)}, event_{event} {}
    std::shared_ptr<Shelf> shelf_;
    cudaEvent_t event_ = nullptr;
  };

  explicit EventPool(const CudaFunctions& cuda) : shelf_{new Shelf{cuda, {}, {}}} {}

  /// An event that nobody uses; a null one if CUDA gives none.
  Event take() {
    {
      const std::scoped_lock lock{shelf_->mutex};
      if (!shelf_->idle.empty()) {
        cudaEvent_t event = shelf_->idle.back();
        shelf_->idle.pop_back();
        return {shelf_, event};
      }
    }
    cudaEvent_t event = nullptr;
    if (shelf_->cuda.create_event(&event) != cudaSuccess) return {};
    return {shelf_, event};
  }

 private:
  std::shared_ptr<Shelf> shelf_;
};

}  // namespace thinwire::comm
