#include "thinwire/pipeline/costs.hpp"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

void require_cost(int stage, std::string_view field, double value) {
  THINWIRE_EXPECTS(
      std::isfinite(value) && value >= 0, InvalidArgument,
      fmt::format("stage {}: {} is {}, but a cost is finite and >= 0", stage, field, value));
}

}  // namespace

Costs uniform_costs(int stages, double forward, double input_gradient, double weight_gradient) {
  StageCost stage;
  stage.forward = forward;
  stage.input_gradient = input_gradient;
  stage.weight_gradient = weight_gradient;
  stage.backward = input_gradient + weight_gradient;
  stage.activation = 1;
  stage.weight_activation = 1;
  return {std::vector<StageCost>(static_cast<std::size_t>(stages), stage), {}};
}

void require_usable(const Costs& costs, int stages, int ranks) {
  THINWIRE_EXPECTS(
      static_cast<int>(costs.stages.size()) == stages, InvalidArgument,
      fmt::format("costs of {} stages for a schedule of {}", costs.stages.size(), stages));
  THINWIRE_EXPECTS(
      costs.caps.empty() || static_cast<int>(costs.caps.size()) == ranks, InvalidArgument,
      fmt::format("memory caps of {} ranks for a schedule of {}", costs.caps.size(), ranks));
  for (int index = 0; index < stages; ++index) {
    const StageCost& stage = costs.stages[static_cast<std::size_t>(index)];
    require_cost(index, "forward", stage.forward);
    require_cost(index, "backward", stage.backward);
    require_cost(index, "input_gradient", stage.input_gradient);
    require_cost(index, "weight_gradient", stage.weight_gradient);
    require_cost(index, "send_forward", stage.send_forward);
    require_cost(index, "send_backward", stage.send_backward);
    require_cost(index, "reduce", stage.reduce);
    require_cost(index, "optimizer", stage.optimizer);
    require_cost(index, "activation", stage.activation);
    require_cost(index, "weight_activation", stage.weight_activation);
    require_cost(index, "transient", stage.transient);
    require_cost(index, "input", stage.input);
    require_cost(index, "output", stage.output);
    require_cost(index, "fixed", stage.fixed);
  }
  for (std::size_t rank = 0; rank < costs.caps.size(); ++rank) {
    THINWIRE_EXPECTS(costs.caps[rank] >= 0, InvalidArgument,
                     fmt::format("rank {}: a memory cap of {} bytes", rank, costs.caps[rank]));
  }
}

}  // namespace thinwire::pipeline
