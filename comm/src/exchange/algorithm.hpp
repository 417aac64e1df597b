#pragma once

#include <vector>

#include "thinwire/comm/buckets.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/plan.hpp"

/// What the exchanges of all devices share: which algorithm carries a plan, and the plan it codes.
namespace thinwire::comm {

/// `wanted`, or what Algorithm::automatic comes to. Throws InvalidArgument when it cannot carry the
/// plan's codecs.
Algorithm choose_algorithm(const compress::Plan& plan, Algorithm wanted);

/// The same plan without an owner's step, and so without a server residual.
compress::Plan without_server(const compress::Plan& plan);

/// The same spans as one shard without an owner's step.
compress::Plan as_one_shard(const compress::Plan& plan);

/// One allreduce plan a bucket; `settings` but for ranks, operation and dtype.
std::vector<compress::Plan> make_plans(const BucketLayout& layout,
                                       const compress::PlanSettings& settings, int ranks);

}  // namespace thinwire::comm
