#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "thinwire/comm/buckets.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/cuda_state.hpp"

/// The Engine for gradients on a GPU. Declared always, defined only in builds with NCCL.
namespace thinwire::comm {

struct CudaEngineOptions {
  compress::Commit commit = compress::Commit::in_place;
  compress::NonFinite non_finite = compress::NonFinite::propagate;
  int chunks =
      1;  ///< of a bucket; one is best on NVLink, more where the wire is slower than coding
  Algorithm algorithm = Algorithm::automatic;
  /// An exchange is held back for the next buckets' until there are so many bytes to send, or until
  /// wait or end_step: small ones cost their latency, not their bytes. Equal on all ranks.
  std::size_t coalesce_bytes = std::size_t{256} << 10;
  Timeout timeout{};  ///< of synchronize; 0: THINWIRE_TIMEOUT
  /// Device memory for residuals and tables, ordered on the current device; null: a pool of the
  /// engine's own.
  std::shared_ptr<MemoryResource> memory{};
};

/// The verbs of Engine, on streams: nothing here waits for the GPU but the constructor,
/// synchronize, export and import. All work is enqueued by the calling thread in program order,
/// which must be the same on all ranks, on two codec streams and an exchange stream, which events
/// join to the caller's; buckets that nothing has to be coded for go over the stream that waits for
/// them where they can. Everything from the first submit to end_step can be captured in a
/// CUDA graph.
///
///   CudaEngine engine{*nccl, layout};
///   for each step:
///     for each bucket, as its gradients are enqueued: engine.submit(bucket, gradients, stream);
///     engine.end_step(stream);   // what is enqueued on `stream` afterwards sees the means
///
/// An error of the GPU, a peer or the network surfaces at the next call of any verb, at latest one
/// step late: the communicator has been aborted then, and nothing stays stuck on a stream.
/// One thread at a time.
class CudaEngine {
 public:
  /// Collective. `communicator` is of make_nccl_communicator, on the current GPU, and must outlive
  /// the engine. Compares plans over the control plane before anything is allocated: throws
  /// MismatchError on every rank when layouts or options differ. Throws OutOfMemory.
  CudaEngine(Communicator& communicator, BucketLayout layout,
             const CudaEngineOptions& options = {});
  /// Waits for what is in flight; never throws.
  ~CudaEngine();
  CudaEngine(const CudaEngine&) = delete;
  CudaEngine& operator=(const CudaEngine&) = delete;

  const BucketLayout& layout() const;

  /// As Engine::add_bucket, plan and restore. They block until the GPU is past the step before.
  std::size_t add_bucket(Bucket bucket);
  const compress::Plan& plan(std::size_t bucket) const;
  void restore(std::vector<compress::Residual> worker, std::vector<compress::Residual> server);

  /// Hands over a bucket: `gradients` (device memory) is complete after what `stream` holds, and
  /// must not be touched until after wait or end_step; the stream must live as long. The scales are
  /// device scalars, as in CallState. Throws InvalidArgument (wrong size or dtype; submitted twice
  /// in a step).
  void submit(std::size_t bucket, TensorView gradients, StreamView stream,
              const float* inv_scale = nullptr, const float* out_scale = nullptr);

  /// Later work on `stream` sees the bucket's mean.
  void wait(std::size_t bucket, StreamView stream);

  /// Ends the step on the GPU: residuals are committed or kept as Commit says; `found_inf` (device
  /// scalar, the same on all ranks; may be null) other than 0 skips it. Later work on `stream` sees
  /// all means. Returns the number of the step, counted from 0.
  std::uint64_t end_step(StreamView stream, const float* found_inf = nullptr);

  /// What a step came to, once the GPU is past its end and for eight steps after it. Always empty
  /// when every bucket is plain.
  std::optional<compress::CudaStepReport> report(std::uint64_t step) const;

  /// Throws what has gone wrong so far, as every verb does. Does not block.
  void poll();

  /// The stream of the exchanges, for collectives of other libraries on the same GPUs: two
  /// communicators deadlock unless all ranks start their kernels in one order, so a caller chains
  /// the other library's calls on this stream.
  StreamView exchange_stream() const;

  /// Blocks until everything enqueued is done. Throws what went wrong, NonFiniteError under the
  /// policy raise, TimeoutError naming the culprit.
  void synchronize();

  /// Ends the engine and its communicator on every rank.
  void abort(std::string_view reason, int culprit = -1) noexcept;

  /// Residuals of all buckets by parameter, between steps. Block.
  std::vector<compress::Residual> export_worker() const;
  std::vector<compress::Residual> export_server() const;
  void import_worker(std::span<const compress::Residual> residuals);
  void import_server(std::span<const compress::Residual> residuals);

  /// As Engine::take_over. Blocks.
  void take_over(const CudaEngine& previous);

  /// Calls and bytes since the engine was made; its times are 0 on a GPU.
  CallMetrics metrics() const;

  /// The same of one bucket since it was added. Throws InvalidArgument if there is no such bucket
  /// or it has ended.
  CallMetrics metrics(std::size_t bucket) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire::comm
