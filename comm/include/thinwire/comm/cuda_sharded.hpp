#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/cuda_state.hpp"

/// The sharded collectives (sharded.hpp) for tensors on a GPU. Declared always, defined only in
/// builds with NCCL.
///
/// Both take a communicator on GPUs (make_nccl_communicator), which must outlive them. Their verbs
/// only enqueue, on the caller's stream, and can be captured in a CUDA graph: one call a step. An
/// error of the GPU, a peer or the network surfaces at the next call of any verb, at latest one
/// step late, and ends the communicator on every rank. One thread at a time; all ranks make the
/// same calls in the same order.
namespace thinwire::comm {

/// CompressedReduceScatter on a stream.
class CudaReduceScatter {
 public:
  /// Collective, and blocks: compares plans, allocates everything. `memory`: device memory for
  /// residuals and tables; null: cudaMalloc. Throws as CompressedReduceScatter, and OutOfMemory.
  CudaReduceScatter(Communicator& communicator, compress::Plan plan,
                    std::shared_ptr<MemoryResource> memory = {});
  /// Waits for what is in flight; never throws.
  ~CudaReduceScatter();

  /// out = this rank's shard of the mean over ranks; `gradients` is the whole tensor and stays as
  /// it is. Later work on `stream` sees it. The scales are device scalars, as in CallState.
  void run(ConstTensorView gradients, TensorView out, StreamView stream,
           const float* inv_scale = nullptr, const float* out_scale = nullptr);

  /// Ends the step as CudaEngine::end_step does: a NaN or Inf on any rank skips it on all. Returns
  /// the step's number, counted from 0.
  std::uint64_t end_step(StreamView stream, const float* found_inf = nullptr);

  /// What a step came to on this rank, as CudaEngine::report; `skipped` is the same on all ranks.
  std::optional<compress::CudaStepReport> report(std::uint64_t step) const;

  /// Blocks until the last call is done (not what a captured graph replays). Throws what went
  /// wrong.
  void synchronize();

  compress::CudaState& state();
  const CallMetrics& metrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// CompressedAllGather on a stream. Every call is a step of its own.
class CudaAllGather {
 public:
  /// As CompressedAllGather; `memory` as in CudaReduceScatter.
  CudaAllGather(Communicator& communicator, const compress::CodecSpec& codec,
                const std::vector<compress::Span>& spans, DType dtype,
                std::vector<std::int64_t> boundaries, std::shared_ptr<MemoryResource> memory = {});
  /// Waits for what is in flight; never throws.
  ~CudaAllGather();

  /// `shard`: this rank's elements; `out`: the whole tensor, seen by later work on `stream`. They
  /// may not overlap. Returns the step's number, counted from 0.
  std::uint64_t run(ConstTensorView shard, TensorView out, StreamView stream);

  /// As CudaEngine::report.
  std::optional<compress::CudaStepReport> report(std::uint64_t step) const;

  /// Blocks until the last call is done (not what a captured graph replays). Throws what went
  /// wrong.
  void synchronize();

  const CallMetrics& metrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire::comm
