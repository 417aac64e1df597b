#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "layer.hpp"
#include "thinwire/comm/engine.hpp"

namespace fashion {

/// How gradients travel.
struct BucketOptions {
  thinwire::compress::CodecSpec codec;
  std::size_t cap_bytes = std::size_t{25} << 20;
  int chunks = 1;
};

/// thinwire's buckets for the parameters, last one first.
thinwire::comm::BucketLayout bucket_layout(std::span<Parameter* const> parameters,
                                           const BucketOptions& options);

/// The gradients of a model, reduced over ranks while backward still computes: they stand in
/// thinwire's buckets, last parameter first, and a bucket leaves as soon as its last gradient is
/// there. This is all that a training loop needs of thinwire.
///
///   for each step:
///     model.backward(..., [&](std::size_t parameter) { buckets.ready(parameter); });
///     buckets.end_step();  // every parameter's gradient is now the mean over ranks
class GradientBuckets {
 public:
  /// Collective. Points Parameter::gradient into the buckets; the parameters must outlive this
  /// object, and it the communicator's last use of them. Throws as thinwire::comm::Engine.
  GradientBuckets(thinwire::comm::Communicator& communicator,
                  std::span<Parameter* const> parameters, const BucketOptions& options);

  /// The gradient of parameters[index] is complete. In the same order on all ranks.
  void ready(std::size_t index);

  void end_step();

  std::size_t count() const { return gradients_.size(); }
  thinwire::comm::CallMetrics metrics() const { return engine_.metrics(); }

 private:
  std::vector<std::size_t> bucket_of_;         // by parameter
  std::vector<std::size_t> parameters_in_;     // by bucket
  std::vector<std::size_t> missing_;           // by bucket: gradients not there yet in this step
  std::vector<std::vector<float>> gradients_;  // by bucket
  thinwire::comm::Engine engine_;              // last: its thread uses the buckets
};

}  // namespace fashion
