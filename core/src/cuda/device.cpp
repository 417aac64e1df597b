#include "thinwire/core/cuda/device.hpp"

#include <fmt/format.h>

#include <string_view>

#include "cuda/try.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire {

CudaError::CudaError(const std::string& message, int code_) : Error{message}, code{code_} {}

int cuda_device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver is no error of the next call
  return 0;
}

DeviceGuard::DeviceGuard(int device) {
  THINWIRE_CUDA_TRY(cudaGetDevice(&former_));
  THINWIRE_CUDA_TRY(cudaSetDevice(device));
}

DeviceGuard::~DeviceGuard() { THINWIRE_CUDA_LOG(cudaSetDevice(former_)); }

namespace detail {

void throw_cuda_error(cudaError_t code, const char* call, const char* file, int line) {
  std::string_view name{file};
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos) {
    name.remove_prefix(slash + 1);
  }
  cudaGetLastError();  // the error is reported here, not again by the next check
  throw CudaError{fmt::format("{}: {} from {} ({}:{})", cudaGetErrorName(code),
                              cudaGetErrorString(code), call, name, line),
                  static_cast<int>(code)};
}

void log_cuda_error(cudaError_t code, const char* call) noexcept {
  cudaGetLastError();
  if (code == cudaErrorCudartUnloading) return;  // the process is ending: nothing leaks
  try {
    log(LogLevel::error,
        fmt::format("{}: {} from {}", cudaGetErrorName(code), cudaGetErrorString(code), call));
  } catch (...) {
    log(LogLevel::error, call);
  }
}

}  // namespace detail
}  // namespace thinwire
