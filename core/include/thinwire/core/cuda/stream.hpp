#pragma once

#include <utility>

#include "thinwire/core/stream.hpp"

struct CUevent_st;  // cudaEvent_t is CUevent_st*

namespace thinwire {

/// Owns a stream of the current device; move-only. Enqueueing from several threads is the caller's
/// to order. All throw CudaError; the destructor logs instead.
class CudaStream {
 public:
  /// A stream that does not wait for the legacy default stream.
  CudaStream();
  ~CudaStream();
  CudaStream(CudaStream&& other) noexcept : handle_{std::exchange(other.handle_, nullptr)} {}
  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  StreamView view() const { return StreamView{handle_}; }
  operator StreamView() const { return view(); }  // NOLINT: an owner narrows to its view by itself

  /// Blocks until everything enqueued so far is done.
  void synchronize() const;

 private:
  CUstream_st* handle_ = nullptr;
};

/// Owns an event without timing; move-only. Orders streams without blocking the host.
class CudaEvent {
 public:
  CudaEvent();
  ~CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept : handle_{std::exchange(other.handle_, nullptr)} {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  CUevent_st* handle() const { return handle_; }

  /// Marks what `stream` holds now.
  void record(StreamView stream);
  /// Later work on `stream` waits for what was recorded last.
  void wait(StreamView stream) const;
  /// True if what was recorded last is done. Does not block.
  bool ready() const;

 private:
  CUevent_st* handle_ = nullptr;
};

}  // namespace thinwire
