#pragma once

#include <cstddef>
#include <span>

#include "thinwire/compress/state.hpp"

namespace thinwire::comm {

/// After a call that failed: adds what the encoded slots of a chunk took back to the worker
/// residual that was written in place, e = e' + v, so that gradient and old residual are both in it
/// and nothing is lost. `slots`: the N slots that this rank encoded. For the failure path:
/// allocates.
void fold_back(compress::State& state, int chunk, std::span<const std::byte> slots);

}  // namespace thinwire::comm
