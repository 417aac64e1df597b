#include "algorithm.hpp"

#include <fmt/format.h>

namespace thinwire::comm {
namespace {

/// The all-gather sends every rank's selection to every rank: fewer bytes than the two-phase way
/// only for two ranks, where it also saves an exchange and the second selection.
bool sparse_is_no_larger(const compress::Plan& plan) {
  const auto ranks = static_cast<std::uint64_t>(plan.ranks());
  return (ranks - 1) * plan.payload_bytes(compress::Phase::reduce) <= plan.wire_bytes();
}

void require_codec(const compress::Plan& plan, Algorithm algorithm, compress::Codec codec) {
  for (const auto& section : plan.sections()) {
    THINWIRE_EXPECTS(section.codec == codec, InvalidArgument,
                     fmt::format("the {} algorithm carries {} alone, not {}", to_string(algorithm),
                                 compress::to_string(codec), compress::to_string(section)));
  }
}

}  // namespace

Algorithm choose_algorithm(const compress::Plan& plan, Algorithm wanted) {
  switch (wanted) {
    case Algorithm::sparse:
      require_codec(plan, wanted, compress::Codec::topk);
      return wanted;
    case Algorithm::summable:
      require_codec(plan, wanted, compress::Codec::bf16);
      return wanted;
    case Algorithm::two_phase:
      return wanted;
    case Algorithm::automatic:
      return plan.header_codec() == compress::Codec::topk && sparse_is_no_larger(plan)
                 ? Algorithm::sparse
                 : Algorithm::two_phase;
  }
  throw InvalidArgument{"unknown algorithm"};
}

compress::Plan without_server(const compress::Plan& plan) {
  compress::PlanSettings settings = plan.settings();
  settings.operation = compress::Operation::all_gather;
  return {plan.sections(), plan.spans(), settings};
}

compress::Plan as_one_shard(const compress::Plan& plan) {
  compress::PlanSettings settings = plan.settings();
  settings.ranks = 1;
  settings.chunks = 1;
  settings.operation = compress::Operation::all_gather;
  return {plan.sections(), plan.spans(), settings};
}

std::vector<compress::Plan> make_plans(const BucketLayout& layout,
                                       const compress::PlanSettings& settings, int ranks) {
  std::vector<compress::Plan> plans;
  for (const Bucket& bucket : layout.buckets) {
    compress::PlanSettings own = settings;
    own.ranks = ranks;
    own.operation = compress::Operation::allreduce;
    own.dtype = bucket.dtype;
    plans.emplace_back(bucket.sections, bucket.spans, own);
  }
  return plans;
}

}  // namespace thinwire::comm
