#pragma once

#include <string>

#include "thinwire/core/error.hpp"

/// CUDA devices. Declared always, defined only in builds with CUDA.
namespace thinwire {

/// A CUDA call failed. `code` is its cudaError_t.
class CudaError : public Error {
 public:
  CudaError(const std::string& message, int code);

  int code;
};

/// GPUs of this machine; 0 without a GPU or without a driver. Never throws.
int cuda_device_count() noexcept;

/// Makes `device` the calling thread's current one and puts the former one back. Throws CudaError.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int former_ = 0;
};

}  // namespace thinwire
