#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/compress/state.hpp"

namespace thinwire::comm {

/// Collective: messages[i] goes to rank i; returns what came from all, in rank order, as one.
using MessageExchange = std::function<std::string(const std::vector<std::string>& messages)>;

/// Collective: brings every server residual to the rank that owns its elements under `plans`.
/// `mine`: what this rank holds, by parameter. Returns what this rank shall hold; elements that no
/// plan has are dropped. Blocks. Throws FormatError for a malformed message.
std::vector<compress::Residual> move_to_owners(int ranks, std::span<const compress::Residual> mine,
                                               std::span<const compress::Plan* const> plans,
                                               const MessageExchange& exchange);
/// The same over a communicator of the host; `timeout`: of each of its two exchanges.
std::vector<compress::Residual> move_to_owners(Communicator& communicator,
                                               std::span<const compress::Residual> mine,
                                               std::span<const compress::Plan* const> plans,
                                               Timeout timeout);

/// Element offsets of parts that stand one after the other.
std::vector<std::size_t> offsets_of(const std::vector<std::size_t>& sizes);

}  // namespace thinwire::comm
