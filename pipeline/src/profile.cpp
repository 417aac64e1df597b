#include "thinwire/pipeline/profile.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

void require_number(double value, const std::string& where) {
  THINWIRE_EXPECTS(
      std::isfinite(value) && value >= 0, InvalidArgument,
      fmt::format("profile: {} is {}, but every cost is finite and >= 0", where, value));
}

void require_link(const LinkCost& link, const std::string& where) {
  require_number(link.alpha, where + ".alpha");
  require_number(link.beta, where + ".beta");
}

void require_cost(const LinearCost& cost, const std::string& where) {
  require_number(cost.fixed, where + ".fixed");
  require_number(cost.per_sample, where + ".per_sample");
}

}  // namespace

double Profile::speed_of(int rank) const {
  return ranks.empty() ? 1.0 : ranks.at(static_cast<std::size_t>(rank)).speed;
}

std::vector<double> Profile::caps_of(int count) const {
  bool any = false;
  std::vector<double> caps(static_cast<std::size_t>(count),
                           std::numeric_limits<double>::infinity());
  for (std::size_t rank = 0; rank < caps.size() && rank < ranks.size(); ++rank) {
    if (ranks[rank].memory_cap <= 0) continue;
    caps[rank] = ranks[rank].memory_cap;
    any = true;
  }
  return any ? caps : std::vector<double>{};
}

const LinkCost& Profile::lane(int source, int destination) const {
  const auto found = lanes.find({source, destination});
  return found == lanes.end() ? link : found->second;
}

void require_usable(const Profile& profile) {
  THINWIRE_EXPECTS(!profile.layers.empty(), InvalidArgument, "profile: it has no layers");
  for (std::size_t i = 0; i < profile.layers.size(); ++i) {
    const LayerProfile& layer = profile.layers[i];
    const std::string where = fmt::format("layers[{}] ({})", i, layer.name);
    require_cost(layer.forward, where + ".forward");
    require_cost(layer.input_gradient, where + ".input_gradient");
    require_cost(layer.weight_gradient, where + ".weight_gradient");
    require_number(layer.optimizer_seconds, where + ".optimizer_seconds");
    require_number(layer.activation_bytes, where + ".activation_bytes");
    require_number(layer.weight_activation_bytes, where + ".weight_activation_bytes");
    require_number(layer.output_bytes, where + ".output_bytes");
    require_number(layer.parameter_bytes, where + ".parameter_bytes");
    require_number(layer.optimizer_bytes, where + ".optimizer_bytes");
  }
  for (std::size_t i = 0; i < profile.ranks.size(); ++i) {
    const std::string where = fmt::format("ranks[{}]", i);
    require_number(profile.ranks[i].speed, where + ".speed");
    require_number(profile.ranks[i].memory_cap, where + ".memory_cap");
    THINWIRE_EXPECTS(profile.ranks[i].speed > 0, InvalidArgument,
                     fmt::format("profile: {}.speed is 0", where));
  }
  require_link(profile.link, "link");
  require_link(profile.reduce_link, "reduce_link");
  for (const auto& [ends, link] : profile.lanes) {
    require_link(link, fmt::format("lane {}>{}", ends.first, ends.second));
  }
  THINWIRE_EXPECTS(profile.replicas >= 1, InvalidArgument,
                   fmt::format("profile: {} replicas", profile.replicas));
}

Costs stage_costs(const Profile& profile, const Partition& bounds,
                  const std::vector<int>& placement, double samples, bool recompute) {
  require_usable(profile);
  const std::size_t stages = placement.size();
  THINWIRE_EXPECTS(bounds.size() == stages + 1 && bounds.front() == 0 &&
                       bounds.back() == static_cast<int>(profile.layers.size()),
                   InvalidArgument,
                   fmt::format("a partition of {} layers into {} stages does not fit {} layers on "
                               "{} stages",
                               bounds.empty() ? 0 : bounds.back(), bounds.size() - 1,
                               profile.layers.size(), stages));
  int ranks = 0;
  for (int rank : placement) ranks = std::max(ranks, rank + 1);
  THINWIRE_EXPECTS(profile.ranks.empty() || static_cast<int>(profile.ranks.size()) >= ranks,
                   InvalidArgument,
                   fmt::format("the profile describes {} ranks, but {} are asked for",
                               profile.ranks.size(), ranks));
  Costs costs{std::vector<StageCost>(stages), profile.caps_of(ranks)};
  for (std::size_t s = 0; s < stages; ++s) {
    THINWIRE_EXPECTS(bounds[s] < bounds[s + 1], InvalidArgument,
                     fmt::format("stage {} has no layer", s));
    StageCost& stage = costs.stages[s];
    const double slowness = 1 / profile.speed_of(placement[s]);
    double parameters = 0;
    for (int l = bounds[s]; l < bounds[s + 1]; ++l) {
      const LayerProfile& layer = profile.layers[static_cast<std::size_t>(l)];
      stage.forward += layer.forward.at(samples) * slowness;
      stage.input_gradient += layer.input_gradient.at(samples) * slowness;
      stage.weight_gradient += layer.weight_gradient.at(samples) * slowness;
      stage.optimizer += layer.optimizer_seconds * slowness;
      stage.activation += layer.activation_bytes * samples;
      stage.weight_activation += layer.weight_activation_bytes * samples;
      stage.output = layer.output_bytes * samples;
      stage.fixed += layer.parameter_bytes + layer.optimizer_bytes;
      parameters += layer.parameter_bytes;
    }
    if (s > 0) stage.input = costs.stages[s - 1].output;
    if (recompute) {
      stage.input_gradient += stage.forward;
      stage.transient = std::max(0.0, stage.activation - stage.input);
      stage.activation = stage.input;
    }
    stage.backward = stage.input_gradient + stage.weight_gradient;
    if (s + 1 < stages && placement[s] != placement[s + 1]) {
      stage.send_forward = profile.lane(placement[s], placement[s + 1]).at(stage.output);
    }
    if (s > 0 && placement[s] != placement[s - 1]) {
      stage.send_backward = profile.lane(placement[s], placement[s - 1]).at(stage.input);
    }
    const int n = profile.replicas;
    if (n > 1) stage.reduce = 2.0 * (n - 1) * profile.reduce_link.at(parameters / n);
  }
  costs.stages.back().output = 0;  // the loss stays where it is
  return costs;
}

}  // namespace thinwire::pipeline
