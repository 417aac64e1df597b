#include "cuda_functions.hpp"

namespace thinwire::comm {

const CudaFunctions& cuda_functions() {
  static const CudaFunctions table{
      .get_device = &cudaGetDevice,
      .set_device = &cudaSetDevice,
      .get_device_pci = &cudaDeviceGetPCIBusId,
      .allocate = [](void** data, std::size_t bytes) { return cudaMalloc(data, bytes); },
      .release = &cudaFree,
      .create_stream =
          [](cudaStream_t* stream) {
            return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
          },
      .destroy_stream = &cudaStreamDestroy,
      .is_capturing = &cudaStreamIsCapturing,
      .create_event =
          [](cudaEvent_t* event) {
            return cudaEventCreateWithFlags(event, cudaEventDisableTiming);
          },
      .destroy_event = &cudaEventDestroy,
      .record_event = [](cudaEvent_t event,
                         cudaStream_t stream) { return cudaEventRecord(event, stream); },
      .query_event = &cudaEventQuery,
      .relax_capture =
          [] {
            auto mode = cudaStreamCaptureModeRelaxed;
            return cudaThreadExchangeStreamCaptureMode(&mode);
          },
      .error_text = &cudaGetErrorString,
  };
  return table;
}

}  // namespace thinwire::comm
