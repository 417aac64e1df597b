#pragma once

#include <functional>
#include <vector>

#include "thinwire/comm/communicator.hpp"

namespace fashion {

/// Collective: runs `work` on every rank and goes on only if it went well everywhere. Else every
/// rank throws: the one that failed its own error, the others an AbortedError that names it and
/// says why.
void together(thinwire::comm::Communicator& communicator, const std::function<void()>& work);

/// Collective: the mean over ranks of each value; the same bits on every rank.
std::vector<double> mean_over_ranks(thinwire::comm::Communicator& communicator,
                                    const std::vector<double>& values);

}  // namespace fashion
