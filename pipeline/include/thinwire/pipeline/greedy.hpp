#pragma once

#include <vector>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"
#include "thinwire/pipeline/simulator.hpp"

namespace thinwire::pipeline {

/// True if no rank of a simulated step holds more than its cap.
bool fits(const Timeline& timeline, const Costs& costs);

/// The published schedules that run on this placement with m micro-batches.
std::vector<Schedule> fixed_schedules(const std::vector<int>& placement, int microbatches);

/// The quickest schedule found for unequal costs on any placement, within the caps of `costs` (as
/// simulate() counts memory). Candidates: the fixed schedules of the placement, and 60 lists made
/// by playing the step forward under priority rules (which chunk first, F or I first, how many
/// micro-batches in flight, when to do weight gradients). Never slower than any fixed schedule that
/// fits. Deterministic; costs a simulation per candidate. Throws InvalidArgument if nothing fits,
/// with the least memory found.
Schedule greedy(const std::vector<int>& placement, int microbatches, const Costs& costs,
                const Execution& execution = {});

}  // namespace thinwire::pipeline
