#include "gradient_buckets.hpp"

#include "thinwire/comm/buckets.hpp"

namespace fashion {

namespace comm = thinwire::comm;

comm::BucketLayout bucket_layout(std::span<Parameter* const> parameters,
                                 const BucketOptions& options) {
  std::vector<comm::Parameter> reversed;
  for (auto parameter = parameters.rbegin(); parameter != parameters.rend(); ++parameter) {
    reversed.push_back({(*parameter)->name, (*parameter)->shape});
  }
  return comm::make_buckets(reversed, options.cap_bytes, comm::one_codec(options.codec));
}

GradientBuckets::GradientBuckets(comm::Communicator& communicator,
                                 std::span<Parameter* const> parameters,
                                 const BucketOptions& options)
    : engine_{communicator, bucket_layout(parameters, options), {.chunks = options.chunks}} {
  const auto& layout = engine_.layout();
  for (const auto& bucket : layout.buckets) {
    gradients_.emplace_back(static_cast<std::size_t>(bucket.elements));
  }
  parameters_in_.resize(gradients_.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& place = layout.placements[parameters.size() - 1 - i];
    parameters[i]->gradient = std::span{gradients_[place.bucket]}.subspan(
        static_cast<std::size_t>(place.offset), parameters[i]->value.size());
    bucket_of_.push_back(place.bucket);
    ++parameters_in_[place.bucket];
  }
  missing_ = parameters_in_;
}

void GradientBuckets::ready(std::size_t index) {
  const auto bucket = bucket_of_[index];
  if (--missing_[bucket] == 0) {
    engine_.submit(bucket, thinwire::view_of(std::span<float>{gradients_[bucket]}));
  }
}

void GradientBuckets::end_step() {
  engine_.end_step();
  missing_ = parameters_in_;
}

}  // namespace fashion
