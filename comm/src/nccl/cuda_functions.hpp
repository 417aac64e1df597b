#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace thinwire::comm {

/// The few CUDA calls that NcclSession makes; tests make their own table.
struct CudaFunctions {
  cudaError_t (*get_device)(int* device) = nullptr;
  cudaError_t (*set_device)(int device) = nullptr;
  cudaError_t (*get_device_pci)(char* text, int length, int device) = nullptr;
  cudaError_t (*allocate)(void** data, std::size_t bytes) = nullptr;
  cudaError_t (*release)(void* data) = nullptr;
  cudaError_t (*create_stream)(cudaStream_t* stream) = nullptr;
  cudaError_t (*destroy_stream)(cudaStream_t stream) = nullptr;
  cudaError_t (*is_capturing)(cudaStream_t stream, cudaStreamCaptureStatus* status) = nullptr;
  cudaError_t (*create_event)(cudaEvent_t* event) = nullptr;
  cudaError_t (*destroy_event)(cudaEvent_t event) = nullptr;
  cudaError_t (*record_event)(cudaEvent_t event, cudaStream_t stream) = nullptr;
  cudaError_t (*query_event)(cudaEvent_t event) = nullptr;
  /// Lets this thread query events while another thread captures a graph.
  cudaError_t (*relax_capture)() = nullptr;
  const char* (*error_text)(cudaError_t code) = nullptr;
};

/// The CUDA runtime's.
const CudaFunctions& cuda_functions();

}  // namespace thinwire::comm
