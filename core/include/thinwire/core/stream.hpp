#pragma once

struct CUstream_st;  // cudaStream_t is CUstream_st*; no CUDA header is needed to pass one on

namespace thinwire {

/// Where a tensor's bytes live.
enum class Device : unsigned char { host = 0, cuda = 1 };

/// A stream that somebody else owns. Work on device tensors is ordered after what the stream
/// holds at the call, and later work on the stream is ordered after it. Host operations ignore it.
class StreamView {
 public:
  constexpr StreamView() = default;
  constexpr explicit StreamView(CUstream_st* handle) : handle_{handle} {}
  constexpr CUstream_st* handle() const { return handle_; }

 private:
  CUstream_st* handle_ = nullptr;
};

}  // namespace thinwire
