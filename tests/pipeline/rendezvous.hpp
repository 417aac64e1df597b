#pragma once

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// Carries a lowered schedule out, step by step, with nothing but rendezvous: hosts issue their
/// lists onto streams, a transfer happens when its send and its receive are both at the head of
/// theirs. True if every action ran exactly once, on right data, in the required order. Shares no
/// code with the validator, which must agree.
bool runs_to_the_end(const Schedule& schedule, const Execution& execution);

}  // namespace thinwire::pipeline
