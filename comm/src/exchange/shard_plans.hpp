#pragma once

#include <cstdint>
#include <vector>

#include "thinwire/compress/plan.hpp"

/// What the sharded collectives of all devices share.
namespace thinwire::comm {

/// Throws InvalidArgument, saying what to do, for a plan that is none of a compressed
/// reduce-scatter.
void require_reduce_scatter(const compress::Plan& plan);

/// The plans of a compressed all-gather: one rank's elements each, as one shard. Throws
/// InvalidArgument for a codec with feedback, for none, and for boundaries that do not rise.
std::vector<compress::Plan> make_gather_plans(const compress::CodecSpec& codec,
                                              const std::vector<compress::Span>& spans, DType dtype,
                                              const std::vector<std::int64_t>& boundaries,
                                              int ranks);

}  // namespace thinwire::comm
