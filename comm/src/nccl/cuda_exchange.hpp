#pragma once

#include <cstddef>
#include <memory>

#include "nccl_functions.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::comm {

/// What exchanges are made of.
struct CudaParts {
  int rank;
  std::shared_ptr<MemoryResource> memory;           ///< residuals and tables
  std::shared_ptr<MemoryResource> exchange_memory;  ///< what NCCL reads and writes
  compress::CudaStep& step;
  const ErrorRing& errors;
  StreamView stream;  ///< for the making
};

/// Where NCCL calls go: inside a group, on one stream.
struct Wire {
  const NcclFunctions& nccl;
  ncclComm_t communicator;
  int ranks;
  cudaStream_t stream;
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

  /// Starts a call. Throws InvalidArgument for gradients that do not fit the plan.
  void begin(TensorView gradients, const float* inv_scale, const float* out_scale);

  virtual int chunks() const { return plan_.chunks(); }
  virtual void encode(int chunk, StreamView stream) = 0;
  virtual ncclResult_t first(int chunk, const Wire& wire) = 0;
  virtual void combine(int chunk, StreamView stream) = 0;
  virtual bool has_second() const { return true; }
  virtual ncclResult_t second(int, const Wire&) { return ncclSuccess; }
  virtual void decode(int chunk, StreamView stream) = 0;
  /// Bytes that the first exchange of a call sends.
  virtual std::size_t first_bytes() const = 0;

  /// For the engine: what the caller's stream held at submit, and the end of the bucket.
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
