#pragma once

#include <cuda.h>

#include <cstdint>

#include "thinwire/core/stream.hpp"

namespace thinwire::comm {

/// The driver's waits and writes of words in memory as steps of a stream, looked up at run time.
class StreamWords {
 public:
  /// Throws CudaError where the driver has none.
  StreamWords();

  /// Later work on `stream` comes once *word >= value (modulo 2^32). `word`: mapped memory.
  void wait(StreamView stream, const std::uint32_t* word, std::uint32_t value) const;
  /// *word = value after what `stream` holds.
  void write(StreamView stream, std::uint32_t* word, std::uint32_t value) const;

 private:
  using Function = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned);
  Function wait_;
  Function write_;
};

}  // namespace thinwire::comm
