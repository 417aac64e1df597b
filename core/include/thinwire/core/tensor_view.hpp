#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "thinwire/core/dtype.hpp"
#include "thinwire/core/stream.hpp"

namespace thinwire {

/// A contiguous run of `numel` elements that somebody else owns. `data` may have any alignment
/// that its element type allows and may be null when `numel` is 0.
struct TensorView {
  void* data = nullptr;
  std::int64_t numel = 0;
  DType dtype = DType::f32;
  Device device = Device::host;

  std::size_t bytes() const { return static_cast<std::size_t>(numel) * size_of(dtype); }
};

/// The same, read only.
struct ConstTensorView {
  const void* data = nullptr;
  std::int64_t numel = 0;
  DType dtype = DType::f32;
  Device device = Device::host;

  ConstTensorView() = default;
  ConstTensorView(const void* data_, std::int64_t numel_, DType dtype_,
                  Device device_ = Device::host)
      : data{data_}, numel{numel_}, dtype{dtype_}, device{device_} {}
  ConstTensorView(const TensorView& view)  // NOLINT: a view narrows to a read-only one by itself
      : data{view.data}, numel{view.numel}, dtype{view.dtype}, device{view.device} {}

  std::size_t bytes() const { return static_cast<std::size_t>(numel) * size_of(dtype); }
};

/// Bytes that somebody else owns, on the host or on a device.
struct ByteView {
  std::byte* data = nullptr;
  std::size_t size = 0;
  Device device = Device::host;
};

/// The same, read only.
struct ConstByteView {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  Device device = Device::host;

  ConstByteView() = default;
  ConstByteView(const std::byte* data_, std::size_t size_, Device device_ = Device::host)
      : data{data_}, size{size_}, device{device_} {}
  ConstByteView(const ByteView& view)  // NOLINT: a view narrows to a read-only one by itself
      : data{view.data}, size{view.size}, device{view.device} {}
};

/// Views of host arrays of float.
inline TensorView view_of(std::span<float> values) {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::f32, Device::host};
}
inline ConstTensorView const_view_of(std::span<const float> values) {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::f32, Device::host};
}

}  // namespace thinwire
