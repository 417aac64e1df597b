#pragma once

#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// Puts REDUCE_GRAD(s) right after the last B or W of each stage s. Present ones are moved there.
Schedule place_reductions(const Schedule& schedule);

/// Adds sends and receives. A send and its receive are put into both ranks' lists in the same step,
/// right after the cell that makes the data, so that the lists agree on the order of every lane
/// (the rule of torch.distributed.pipelining). A schedule that has transfers comes back unchanged.
/// Throws InvalidArgument that names the actions that wait for each other if the compute order has
/// a cycle.
Schedule place_transfers(const Schedule& schedule);

/// Both passes: what a runtime carries out.
Schedule lower(const Schedule& schedule);

/// The inverse: F, B, I and W alone.
Schedule strip(const Schedule& schedule);

}  // namespace thinwire::pipeline
