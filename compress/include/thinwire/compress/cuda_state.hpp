#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "thinwire/compress/plan.hpp"
#include "thinwire/compress/state.hpp"
#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/stream.hpp"

/// Error feedback on a GPU. Declared always, defined only in builds with CUDA.
namespace thinwire::compress {

namespace cuda {
struct StepBlock;
struct StateRow;
}  // namespace cuda

/// What a step came to, on the GPU's own account.
struct CudaStepReport {
  std::uint64_t sequence = 0;
  std::uint32_t flags = 0;  ///< SlotFlag bits of all decoded slots
  bool failed = false;      ///< a slot of a peer was refused; the error ring says which
  bool skipped = false;  ///< not finite, failed or found_inf: double-buffered residuals were kept
};

/// The values that change from step to step, in device memory, so that a captured graph replays
/// right: the sequence number of the step and which residuals are the committed ones. All states
/// of a step share one CudaStep and are committed together or not at all.
///
/// Nothing blocks but the constructor. Work is enqueued in program order by one thread at a time.
class CudaStep {
 public:
  /// Room for `most_states` states. Blocks. Throws OutOfMemory or CudaError.
  CudaStep(std::shared_ptr<MemoryResource> device_memory, StreamView stream,
           int most_states = 1024);

  /// The next step's sequence number is `sequence`; at first it is 0. Equal on all ranks.
  void set_sequence(std::uint64_t sequence, StreamView stream);

  /// Ends a step on the device: residuals written since the last end become the committed ones,
  /// unless the step was not finite, a peer's slot was refused, or `found_inf` (a device scalar,
  /// may be null) is not 0. Residuals in place and their server's stay written whatever was found,
  /// but for a refused slot. The sequence number goes up by one.
  void end(StreamView stream, const float* found_inf = nullptr);

  /// What a step came to, once the device is past its end and for the eight steps after it. Does
  /// not block.
  std::optional<CudaStepReport> report(std::uint64_t sequence) const;

  cuda::StepBlock* device_block() const;

 private:
  friend class CudaState;
  cuda::StateRow* take_row();
  void give_row(cuda::StateRow* row);

  Buffer block_;
  Buffer reports_;  // mapped
  std::vector<cuda::StateRow*> free_rows_;
  int rows_ = 0;  // rows [0, rows_) were in use at some time
};

/// State (state.hpp) in device memory: the same versions and the same commit, decided by CudaStep.
class CudaState {
 public:
  /// Residuals are zero after what `stream` holds now. `plan` and `step` must outlive the state.
  /// Throws OutOfMemory or CudaError.
  CudaState(const Plan& plan, int shard, std::shared_ptr<MemoryResource> device_memory,
            CudaStep& step, StreamView stream);
  ~CudaState();
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;

  const Plan& plan() const { return *plan_; }
  int shard() const { return shard_; }
  cuda::StateRow* device_row() const { return row_; }

  /// Bases of both versions; under Commit::in_place both of the worker's are the same.
  float* worker_version(int version) const;
  float* server_version(int version) const { return server_[version].as<float>(); }

  /// As in State, between steps only. They block until `stream` has done its work.
  std::vector<Residual> export_worker(StreamView stream) const;
  std::vector<Residual> export_server(StreamView stream) const;
  std::int64_t import_worker(std::span<const Residual> residuals, StreamView stream);
  std::int64_t import_server(std::span<const Residual> residuals, StreamView stream);

 private:
  float* committed_worker(StreamView stream) const;
  float* committed_server(StreamView stream) const;

  const Plan* plan_;
  int shard_;
  CudaStep* step_;
  cuda::StateRow* row_;
  Buffer worker_[2];
  Buffer server_[2];
};

}  // namespace thinwire::compress
