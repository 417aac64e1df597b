#pragma once

#include <exception>
#include <span>

#include "exchange/lanes.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/comm/communicator.hpp"
#include "thinwire/compress/plan.hpp"

namespace thinwire::comm {

/// Collective: throws MismatchError on every rank when the plans differ, naming the first field,
/// before any data has moved.
void require_equal_plans(Communicator& communicator, std::span<const compress::Plan> plans,
                         Algorithm algorithm, Timeout timeout);

/// Ends the communicator and its lanes on every rank because of `error`. Never throws.
void abort_all(Communicator& communicator, Lanes& lanes, std::exception_ptr error) noexcept;

}  // namespace thinwire::comm
