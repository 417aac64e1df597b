#pragma once

#include "thinwire/pipeline/action.hpp"
#include "thinwire/pipeline/costs.hpp"

namespace thinwire::pipeline {

/// Change of a rank's activation bytes when a compute action starts.
inline double bytes_at_start(Kind kind, const StageCost& stage) {
  if (kind == Kind::forward) return stage.activation;
  return makes_input_gradient(kind) ? stage.transient : 0.0;
}

/// The same when it ends: I swaps what F left for what W needs.
inline double bytes_at_end(Kind kind, const StageCost& stage) {
  switch (kind) {
    case Kind::backward:
      return -stage.activation - stage.transient;
    case Kind::input_gradient:
      return stage.weight_activation - stage.activation - stage.transient;
    case Kind::weight_gradient:
      return -stage.weight_activation;
    default:
      return 0.0;
  }
}

}  // namespace thinwire::pipeline
