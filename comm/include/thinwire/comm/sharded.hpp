#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "thinwire/comm/compressed_allreduce.hpp"

/// Compressed reduce-scatter and all-gather by themselves, for sharded data parallelism. The caller
/// says who owns what: ranks + 1 rising boundaries in elements of the flat tensor, uneven or empty
/// shards included; a boundary starts a new block, as a parameter does.
namespace thinwire::comm {

/// Encode N shards, all-to-all, decode and add on the owner. Sends N - 1 slots.
///
/// Feedback here is worker-side and as large as the whole tensor on every rank; use a codec with
/// "+noef" to do without. One thread at a time; all ranks make the same calls in the same order.
class CompressedReduceScatter {
 public:
  /// Collective: compares plans. `plan` has Operation::reduce_scatter and its boundaries set.
  /// Throws InvalidArgument for another operation, MismatchError on every rank when plans differ.
  /// `lanes` as in CompressedAllreduce.
  CompressedReduceScatter(Communicator& communicator, compress::Plan plan,
                          std::shared_ptr<WorkerPool> pool, std::shared_ptr<MemoryResource> memory,
                          SharedLanes* lanes = nullptr);
  ~CompressedReduceScatter();

  /// out = this rank's shard of the mean over ranks. `gradients` is the whole tensor and stays as
  /// it is. Blocks. Errors as CompressedAllreduce::run.
  compress::Verdict run(ConstTensorView gradients, TensorView out, const float* inv_scale = nullptr,
                        const float* out_scale = nullptr);

  /// Commits the residuals of the calls since the last end_step, or drops them (Commit rules).
  void end_step(bool commit);

  compress::State& state();
  const CallMetrics& metrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Encode the own shard, all-gather, decode all. Sends N - 1 slots of the largest shard's size.
/// Meant for parameters: no residual. After a call all ranks hold the same bits, also of their own
/// shard, which went through the codec like the others.
class CompressedAllGather {
 public:
  /// Collective. `spans` lay out the whole tensor of `dtype`, all in one section of `codec`, whose
  /// feedback must be none. Throws as CompressedReduceScatter.
  CompressedAllGather(Communicator& communicator, const compress::CodecSpec& codec,
                      const std::vector<compress::Span>& spans, DType dtype,
                      std::vector<std::int64_t> boundaries, std::shared_ptr<WorkerPool> pool,
                      std::shared_ptr<MemoryResource> memory, SharedLanes* lanes = nullptr);
  ~CompressedAllGather();

  /// `shard`: this rank's elements; `out`: the whole tensor. They may not overlap. Blocks.
  compress::Verdict run(ConstTensorView shard, TensorView out);

  const CallMetrics& metrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire::comm
