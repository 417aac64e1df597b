#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <utility>

#include "cuda/try.hpp"
#include "device_failure.hpp"
#include "device_wire.hpp"
#include "thinwire/compress/cuda_state.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/cuda/error_ring.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::comm {

/// What a collective on the caller's stream is made of.
struct CudaCollective {
  CudaCollective(Communicator& communicator_, const char* user,
                 std::shared_ptr<MemoryResource> memory_)
      : communicator{communicator_},
        wire{wire_of(communicator, user)},
        memory{memory_ ? std::move(memory_) : std::make_shared<ExchangeMemory>()},
        step{memory, making, 1},
        errors{memory} {}

  void look() { throw_device_failure(communicator, wire, errors); }

  /// A call has been enqueued. The caller's stream may be gone when somebody waits for it; what a
  /// graph holds is the caller's to wait for.
  void enqueued(StreamView stream) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    THINWIRE_CUDA_TRY(cudaStreamIsCapturing(stream.handle(), &capture));
    if (capture == cudaStreamCaptureStatusNone) ended.record(stream);
  }

  void synchronize() {
    look();
    ended.wait(making);
    wire.wait_for({"step"}, making, config().timeout);
    look();
  }

  /// For destructors: the buffers are in use until then.
  void settle() noexcept {
    try {
      synchronize();
    } catch (const std::exception&) {  // it was or will be raised where somebody listens
    }
  }

  Communicator& communicator;
  DeviceWire& wire;
  CudaStream making;  ///< and of waits
  std::shared_ptr<MemoryResource> memory;
  std::shared_ptr<MemoryResource> exchange_memory = std::make_shared<ExchangeMemory>();
  compress::CudaStep step;
  ErrorRing errors;
  CudaEvent ended;  ///< of the last call
  std::uint64_t steps = 0;
  CallMetrics metrics;
};

}  // namespace thinwire::comm
