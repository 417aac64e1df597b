#pragma once

#include <optional>
#include <string_view>

#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline {

/// `action` may be null; `rank` -1 where no list is at fault.
Defect make_defect(Rule rule, int rank, int position, const Action* action, std::string_view why);

/// Everything that validate() proves without a graph, on a well-formed schedule: completeness,
/// order, pairing of transfers, reductions, sharding. Nothing if all holds.
std::optional<Defect> check_sets(const Schedule& schedule);

}  // namespace thinwire::pipeline
