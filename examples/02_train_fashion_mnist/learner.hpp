#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "dataset.hpp"
#include "layer.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"

namespace fashion {

struct TrainOptions;

/// Model, gradient buckets and optimizer on one device.
class Learner {
 public:
  virtual ~Learner() = default;

  /// Collective: one step on this rank's batch.
  virtual void step(const Batch& batch, float rate) = 0;

  /// The mean loss of this rank's batches since the last call. Waits for them.
  virtual double take_loss() = 0;

  /// Images of the batch that the model gets right.
  virtual std::int64_t count_correct(const Batch& batch) = 0;

  /// The parameters as they are now, on the host.
  virtual std::span<Parameter* const> parameters() = 0;

  virtual std::size_t buckets() const = 0;
  virtual thinwire::comm::CallMetrics metrics() const = 0;
  virtual double compute_seconds() const = 0;  ///< processor time of forward, backward and update
  virtual double codec_ms() const = 0;         ///< encode and decode of the median step
};

/// Collective. On the host, over any communicator of the host.
std::unique_ptr<Learner> make_host_learner(thinwire::comm::Communicator& communicator,
                                           const TrainOptions& options);

/// Collective. On the current GPU, over a communicator of GPUs; matrix products by cuBLAS. It
/// starts from the same parameters. Times are 0. Throws thinwire::InvalidArgument for a model other
/// than mlp, and in a build without CUDA and NCCL.
std::unique_ptr<Learner> make_cuda_learner(thinwire::comm::Communicator& communicator,
                                           const TrainOptions& options);

/// Makes GPU `local_rank`, or one that is shared where there are fewer, the thread's current one.
/// Throws as make_cuda_learner.
void choose_gpu(int local_rank);

}  // namespace fashion
