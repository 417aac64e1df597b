#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "bench_codec_case.hpp"

/// bench_codec on a GPU. Only in builds with CUDA.
namespace thinwire::bench {

/// What the memory of the GPU does in the same run, in bytes a millisecond.
struct CudaFloors {
  double copy = 0;  ///< device-to-device copy, bytes read and written
  double mix = 0;   ///< e = g + e: reads two, writes one
};

class CudaCodecBench {
 public:
  /// Throws Error on a machine without a GPU.
  explicit CudaCodecBench(int repetitions);
  ~CudaCodecBench();
  CudaCodecBench(const CudaCodecBench&) = delete;
  CudaCodecBench& operator=(const CudaCodecBench&) = delete;

  /// Median milliseconds of one call, of several that are replayed from a graph, so that the host's
  /// own time does not count.
  double time_ms(const CodecCase& wanted);

  /// Measured once for a number of elements.
  CudaFloors floors(std::int64_t elements);

 private:
  class Device;
  std::unique_ptr<Device> device_;
  std::map<std::int64_t, CudaFloors> floors_;
};

}  // namespace thinwire::bench
