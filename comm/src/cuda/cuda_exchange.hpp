#pragma once

#include <cstddef>
#include <memory>

#include "device_wire.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::comm {

/// What exchanges are made of.
struct CudaParts {
  int rank, ranks;                         ///< of the communicator; a plan may have fewer shards
  std::shared_ptr<MemoryResource> memory;  ///< residuals and tables
  std::shared_ptr<MemoryResource> exchange_memory;  ///< what the wire reads and writes
  compress::CudaStep& step;
  const ErrorRing& errors;
  StreamView stream;  ///< for the making
};

/// One bucket's allreduce on the GPU in the stages of a chunk, as BucketExchange on the host:
///   encode -> (first exchange) -> combine -> (second exchange) -> decode.
/// Each stage only enqueues. An algorithm is a subclass. Allocates everything when made.
class CudaExchange {
 public:
  virtual ~CudaExchange() = default;
  CudaExchange(const CudaExchange&) = delete;
  CudaExchange& operator=(const CudaExchange&) = delete;

  const compress::Plan& plan() const { return plan_; }
  /// Null for a plain bucket.
  compress::CudaState* state() { return state_.get(); }
  const CallMetrics& metrics() const { return metrics_; }

  /// Starts a call on gradients that are complete after what `stream` holds. Throws InvalidArgument
  /// for gradients that do not fit the plan.
  void begin(TensorView gradients, StreamView stream, const float* inv_scale,
             const float* out_scale);
  StreamView caller() const { return caller_; }
  bool scaled() const { return inv_scale_ != nullptr || out_scale_ != nullptr; }

  virtual int chunks() const { return plan_.chunks(); }
  virtual void encode(int chunk, StreamView stream) = 0;
  virtual void first(int chunk, DeviceWire::Group& wire) = 0;
  virtual void combine(int chunk, StreamView stream) = 0;
  virtual bool has_second() const { return true; }
  virtual void second(int, DeviceWire::Group&) {}
  virtual void decode(int chunk, StreamView stream) = 0;
  /// Bytes that the first exchange of a call sends.
  virtual std::size_t first_bytes() const = 0;

  /// For the engine: the gradients are complete, and the means are.
  CudaEvent ready, done;

 protected:
  CudaExchange(const CudaParts& parts, compress::Plan plan);

  compress::CudaCall call(StreamView stream) const { return {stream, inv_scale_, out_scale_}; }
  std::size_t ranks() const { return static_cast<std::size_t>(ranks_); }

  compress::Plan plan_;
  int rank_;
  int ranks_;
  std::unique_ptr<compress::CudaState> state_;
  std::unique_ptr<compress::CudaCoder> coder_;
  TensorView gradients_;
  StreamView caller_;
  const float* inv_scale_ = nullptr;
  const float* out_scale_ = nullptr;
  CallMetrics metrics_;
};

/// As make_exchange on the host.
std::unique_ptr<CudaExchange> make_cuda_exchange(const CudaParts& parts, compress::Plan plan,
                                                 Algorithm algorithm);

/// The algorithms. make_cuda_exchange is how to get one.
std::unique_ptr<CudaExchange> make_cuda_plain_exchange(const CudaParts& parts, compress::Plan plan);
std::unique_ptr<CudaExchange> make_cuda_two_phase_exchange(const CudaParts& parts,
                                                           compress::Plan plan);
std::unique_ptr<CudaExchange> make_cuda_sparse_exchange(const CudaParts& parts,
                                                        compress::Plan plan);
std::unique_ptr<CudaExchange> make_cuda_summable_exchange(const CudaParts& parts,
                                                          compress::Plan plan);

}  // namespace thinwire::comm
