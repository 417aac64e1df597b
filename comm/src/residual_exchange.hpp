#pragma once

#include <span>
#include <vector>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/compress/state.hpp"

namespace thinwire::comm {

/// Collective: brings every server residual to the rank that owns its elements under `plans`.
/// `mine`: what this rank holds, by parameter. Returns what this rank shall hold; elements that no
/// plan has are dropped. Blocks. Throws FormatError for a malformed message.
std::vector<compress::Residual> move_to_owners(Communicator& communicator,
                                               std::span<const compress::Residual> mine,
                                               std::span<const compress::Plan* const> plans);

}  // namespace thinwire::comm
