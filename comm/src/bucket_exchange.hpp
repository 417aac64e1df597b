#pragma once

#include <memory>
#include <vector>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::comm {

/// The two orders in which exchanges are posted. Each is a communicator of its own: all ranks post
/// the first exchanges in the order of submission, and the second ones too, but how the two
/// interleave depends on each rank's clock.
struct Lanes {
  std::unique_ptr<Communicator> reduce;  ///< worker to owner, and plain allreduces
  std::unique_ptr<Communicator> gather;  ///< owner to everybody

  explicit Lanes(Communicator& parent);
  void abort(std::string_view reason, int culprit) noexcept;
};

/// Everything that one bucket needs for its calls, and the stages of a chunk:
///   encode -> (reduce lane) -> combine -> (gather lane) -> decode.
/// A plain bucket is one chunk whose only exchange is the transport's allreduce.
class BucketExchange {
 public:
  BucketExchange(Lanes& lanes, compress::Plan plan, std::shared_ptr<WorkerPool> pool,
                 std::shared_ptr<MemoryResource> memory);

  const compress::Plan& plan() const { return plan_; }
  compress::State& state() { return state_; }
  const compress::State& state() const { return state_; }
  CallMetrics& metrics() { return metrics_; }
  const CallMetrics& metrics() const { return metrics_; }
  const compress::Verdict& verdict() const { return verdict_; }

  /// Starts a call. Throws InvalidArgument for gradients that do not fit the plan or a
  /// double-buffered step that was not ended.
  void begin(TensorView gradients, const compress::CallState& call);

  /// The stages of chunk `chunk`; encode and combine return the exchange that they posted, or null
  /// when there is none to wait for.
  WorkHandle encode(int chunk);
  WorkHandle combine(int chunk);
  void decode(int chunk);

 private:
  std::byte* slots(const Buffer& buffer, int chunk, compress::Phase phase) const;

  Lanes* lanes_;
  compress::Plan plan_;
  compress::State state_;
  std::unique_ptr<compress::Coder> coder_;
  Buffer to_owners_, from_workers_, my_slots_, from_owners_;
  TensorView gradients_;
  compress::CallState call_;
  compress::Verdict verdict_;
  CallMetrics metrics_;
};

}  // namespace thinwire::comm
