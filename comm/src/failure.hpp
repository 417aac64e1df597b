#pragma once

#include <exception>
#include <initializer_list>
#include <span>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/plan.hpp"

namespace thinwire::comm {

/// Collective: throws MismatchError on every rank when the plans differ, naming the first field,
/// before any data has moved.
void require_equal_layouts(Communicator& communicator, std::span<const compress::Plan> plans,
                           Timeout timeout);

/// The same for plans of the communicator's ranks, and for the algorithm. Throws InvalidArgument
/// for a plan of other ranks.
void require_equal_plans(Communicator& communicator, std::span<const compress::Plan> plans,
                         Algorithm algorithm, Timeout timeout);

/// Ends these communicators on every rank because of `error`: its peer is the culprit where it
/// names one, nobody of them where another communicator's abort was the reason, else this rank.
/// Never throws.
void abort_all(std::exception_ptr error,
               std::initializer_list<Communicator*> communicators) noexcept;

}  // namespace thinwire::comm
