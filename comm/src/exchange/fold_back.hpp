#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "thinwire/compress/state.hpp"

namespace thinwire::comm {

/// After a call that failed: adds what the encoded slots of a chunk took back to the worker
/// residual that was written in place, e = e' + v, so that gradient and old residual are both in it
/// and nothing is lost. `slots`: the N slots that this rank encoded. For the failure path:
/// allocates.
void fold_back(compress::State& state, int chunk, std::span<const std::byte> slots);

/// After a call that failed: the residuals become what they were (double-buffered), or take up what
/// was encoded in place for `chunks`. `encoded`: the slots of a chunk, empty where nothing is
/// encoded. Logs what cannot be restored.
void take_back(compress::State& state, std::span<const int> chunks,
               const std::function<std::span<const std::byte>(int)>& encoded) noexcept;

}  // namespace thinwire::comm
