#pragma once

#include <optional>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// What an idle rank does next.
struct ListRules {
  bool deep_first = true;      ///< prefers the later of its stages; else the earlier
  bool backward_first = true;  ///< prefers I to F; else F while `in_flight` allows
  double in_flight = 0;  ///< F at most this many ahead of I, in shares of the stage's distance
                         ///< from the end of the pipeline; 0: memory alone limits
  enum class Weights {
    fused,  ///< B instead of I and W
    fill,   ///< W when nothing else is ready
    eager,  ///< W when nothing else is ready, and before F
  } weights = Weights::fill;
};

/// Plays one step forward in time, each rank taking the best ready action by `rules` and never more
/// activations than its cap. Nothing if the memory runs full with no way on.
std::optional<Schedule> list_schedule(const std::vector<int>& placement, int microbatches,
                                      const Costs& costs, const ListRules& rules);

}  // namespace thinwire::pipeline
