#include "stream_words.hpp"

#include <cuda_runtime_api.h>

#include "cuda/try.hpp"

namespace thinwire::comm {
namespace {

void* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  THINWIRE_CUDA_TRY(
      cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
  THINWIRE_CUDA_TRY(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
  if (found != cudaDriverEntryPointSuccess) THINWIRE_CUDA_TRY(cudaErrorNotSupported);
  return function;
}

void check(CUresult result) {
  if (result != CUDA_SUCCESS) THINWIRE_CUDA_TRY(static_cast<cudaError_t>(result));
}

CUdeviceptr address_of(const std::uint32_t* word) {
  return reinterpret_cast<CUdeviceptr>(word);  // mapped memory has one address everywhere
}

}  // namespace

StreamWords::StreamWords()
    : wait_{reinterpret_cast<Function>(driver_function("cuStreamWaitValue32"))},
      write_{reinterpret_cast<Function>(driver_function("cuStreamWriteValue32"))} {}

void StreamWords::wait(StreamView stream, const std::uint32_t* word, std::uint32_t value) const {
  check(wait_(stream.handle(), address_of(word), value, CU_STREAM_WAIT_VALUE_GEQ));
}

void StreamWords::write(StreamView stream, std::uint32_t* word, std::uint32_t value) const {
  check(write_(stream.handle(), address_of(word), value, CU_STREAM_WRITE_VALUE_DEFAULT));
}

}  // namespace thinwire::comm
