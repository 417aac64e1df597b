#pragma once

#include <cuda_runtime_api.h>

#include "thinwire/core/cuda/device.hpp"

namespace thinwire::detail {

[[noreturn]] void throw_cuda_error(cudaError_t code, const char* call, const char* file, int line);
void log_cuda_error(cudaError_t code, const char* call) noexcept;

}  // namespace thinwire::detail

/// Throws CudaError naming the call unless it succeeds.
#define THINWIRE_CUDA_TRY(call)                                                                   \
  do {                                                                                            \
    if (const cudaError_t thinwire_cuda_try_code = (call); thinwire_cuda_try_code != cudaSuccess) \
        [[unlikely]]                                                                              \
      ::thinwire::detail::throw_cuda_error(thinwire_cuda_try_code, #call, __FILE__, __LINE__);    \
  } while (false)

/// The same for destructors: logs.
#define THINWIRE_CUDA_LOG(call)                                                                   \
  do {                                                                                            \
    if (const cudaError_t thinwire_cuda_log_code = (call); thinwire_cuda_log_code != cudaSuccess) \
        [[unlikely]]                                                                              \
      ::thinwire::detail::log_cuda_error(thinwire_cuda_log_code, #call);                          \
  } while (false)
