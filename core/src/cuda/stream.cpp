#include "thinwire/core/cuda/stream.hpp"

#include "cuda/try.hpp"

namespace thinwire {

CudaStream::CudaStream() {
  THINWIRE_CUDA_TRY(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking));
}

CudaStream::~CudaStream() {
  if (handle_ != nullptr) THINWIRE_CUDA_LOG(cudaStreamDestroy(handle_));
}

void CudaStream::synchronize() const { THINWIRE_CUDA_TRY(cudaStreamSynchronize(handle_)); }

CudaEvent::CudaEvent() {
  THINWIRE_CUDA_TRY(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming));
}

CudaEvent::~CudaEvent() {
  if (handle_ != nullptr) THINWIRE_CUDA_LOG(cudaEventDestroy(handle_));
}

void CudaEvent::record(StreamView stream) {
  THINWIRE_CUDA_TRY(cudaEventRecord(handle_, stream.handle()));
}

void CudaEvent::wait(StreamView stream) const {
  THINWIRE_CUDA_TRY(cudaStreamWaitEvent(stream.handle(), handle_, 0));
}

bool CudaEvent::ready() const {
  const cudaError_t code = cudaEventQuery(handle_);
  if (code == cudaErrorNotReady) return false;
  THINWIRE_CUDA_TRY(code);
  return true;
}

}  // namespace thinwire
