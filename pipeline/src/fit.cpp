#include "thinwire/pipeline/fit.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/greedy.hpp"

namespace thinwire::pipeline {
namespace {

constexpr int attempts = 6;    // splits tried while buffers push the peak over a cap
constexpr int most_ties = 16;  // equal partitions that are simulated

/// Micro-batches of one stage between F and I, and between I and W.
struct InFlight {
  int forward = 0;
  int weight = 0;
};

/// Of every stage, at the moment its rank holds most (by the whole model's bytes as weights).
std::vector<InFlight> in_flight(const Schedule& schedule, double activation,
                                double weight_activation) {
  std::vector<InFlight> peak(schedule.placement.size());
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    const std::vector<int> stages = schedule.stages_of(rank);
    std::vector<InFlight> now(schedule.placement.size());
    double highest = -1;
    for (const Action& action : schedule.actions[static_cast<std::size_t>(rank)]) {
      InFlight& count = now[static_cast<std::size_t>(action.stage)];
      if (action.kind == Kind::forward) ++count.forward;
      double held = 0;
      for (int stage : stages) {
        const InFlight& other = now[static_cast<std::size_t>(stage)];
        held += other.forward * activation + other.weight * weight_activation;
      }
      if (held > highest) {
        highest = held;
        for (int stage : stages) {
          peak[static_cast<std::size_t>(stage)] = now[static_cast<std::size_t>(stage)];
        }
      }
      if (makes_input_gradient(action.kind)) --count.forward;
      if (action.kind == Kind::input_gradient) ++count.weight;
      if (action.kind == Kind::weight_gradient) --count.weight;
    }
  }
  return peak;
}

void add_memory(PartitionProblem& problem, const Profile& profile, const Schedule& schedule,
                const FitRequest& request) {
  double activation = 0;
  double weight_activation = 0;
  for (const LayerProfile& layer : profile.layers) {
    activation += request.recompute ? 0 : layer.activation_bytes;
    weight_activation += layer.weight_activation_bytes;
  }
  const auto counts = in_flight(schedule, activation, weight_activation);
  for (const InFlight& count : counts) {
    auto& row = problem.bytes.emplace_back();
    // Recomputed activations are there for one micro-batch at a time.
    const int forward = request.recompute ? std::min(1, count.forward) : count.forward;
    for (const LayerProfile& layer : profile.layers) {
      row.push_back(layer.parameter_bytes + layer.optimizer_bytes +
                    request.samples * (forward * layer.activation_bytes +
                                       count.weight * layer.weight_activation_bytes));
    }
  }
}

void add_transfers(PartitionProblem& problem, const Profile& profile, double samples) {
  for (int s = 0; s + 1 < problem.stages(); ++s) {
    const int here = problem.placement[static_cast<std::size_t>(s)];
    const int next = problem.placement[static_cast<std::size_t>(s) + 1];
    auto& row = problem.transfer_seconds.emplace_back();
    for (const LayerProfile& layer : profile.layers) {
      const double bytes = layer.output_bytes * samples;
      row.push_back(here == next ? 0.0
                                 : std::max(profile.lane(here, next).at(bytes),
                                            profile.lane(next, here).at(bytes)));
    }
  }
}

/// The best of the partitions that share the smallest bottleneck.
Fit best_of_equals(const Profile& profile, const Schedule& schedule, const FitRequest& request,
                   const PartitionProblem& problem) {
  const PartitionResult result = partition(problem);
  Fit best;
  double least_moved = 0;
  bool best_fits = false;
  for (const Partition& bounds : equal_partitions(problem, result, most_ties)) {
    Fit candidate{
        bounds,
        result.bottleneck,
        result.optimal,
        stage_costs(profile, bounds, schedule.placement, request.samples, request.recompute),
        {}};
    candidate.timeline = simulate(schedule, candidate.costs, request.execution);
    const bool candidate_fits = fits(candidate.timeline, candidate.costs);
    const double moved = request.current.empty()
                             ? 0.0
                             : bytes_moved(profile, schedule.placement, request.current, bounds);
    const double quicker = best.timeline.step_time - candidate.timeline.step_time;
    const double same = 1e-9 * candidate.timeline.step_time;
    const bool better = best.bounds.empty() || (candidate_fits && !best_fits) ||
                        (candidate_fits == best_fits &&
                         (quicker > same || (quicker > -same && moved < least_moved)));
    if (!better) continue;
    best = std::move(candidate);
    best_fits = candidate_fits;
    least_moved = moved;
  }
  return best;
}

}  // namespace

PartitionProblem partition_problem(const Profile& profile, const Schedule& schedule,
                                   const FitRequest& request) {
  require_usable(profile);
  THINWIRE_EXPECTS(request.samples > 0, InvalidArgument,
                   fmt::format("micro-batches of {} samples", request.samples));
  THINWIRE_EXPECTS(
      profile.ranks.empty() || static_cast<int>(profile.ranks.size()) >= schedule.ranks(),
      InvalidArgument,
      fmt::format("the profile describes {} ranks, but {} are asked for", profile.ranks.size(),
                  schedule.ranks()));
  PartitionProblem problem;
  problem.placement = schedule.placement;
  for (const LayerProfile& layer : profile.layers) {
    const double forward = layer.forward.at(request.samples);
    problem.seconds.push_back(forward + layer.input_gradient.at(request.samples) +
                              layer.weight_gradient.at(request.samples) +
                              (request.recompute ? forward : 0.0));
  }
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    problem.speeds.push_back(profile.speed_of(rank));
  }
  add_transfers(problem, profile, request.samples);
  problem.caps = profile.caps_of(schedule.ranks());
  if (!problem.caps.empty()) {
    for (double& cap : problem.caps) cap = std::min(cap, 1e300);
    add_memory(problem, profile, schedule, request);
  }
  return problem;
}

Fit fit(const Profile& profile, const Schedule& schedule, const FitRequest& request) {
  PartitionProblem problem = partition_problem(profile, schedule, request);
  Fit found;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    found = best_of_equals(profile, schedule, request, problem);
    if (fits(found.timeline, found.costs)) return found;
    for (std::size_t rank = 0; rank < problem.caps.size(); ++rank) {
      const double over = found.timeline.ranks[rank].peak_bytes - found.costs.caps[rank];
      problem.caps[rank] = std::max(0.0, problem.caps[rank] - std::max(0.0, over));
    }
  }
  for (std::size_t rank = 0; rank < problem.caps.size(); ++rank) {
    const double peak = found.timeline.ranks[rank].peak_bytes;
    THINWIRE_EXPECTS(peak <= found.costs.caps[rank], InvalidArgument,
                     fmt::format("{}: rank {} needs {:.0f} bytes, but its cap is {:.0f}",
                                 schedule.name, rank, peak, found.costs.caps[rank]));
  }
  return found;
}

double bytes_moved(const Profile& profile, const std::vector<int>& placement, const Partition& from,
                   const Partition& to) {
  const auto stage_of = [](const Partition& bounds, int layer) {
    return std::upper_bound(bounds.begin(), bounds.end(), layer) - bounds.begin() - 1;
  };
  double bytes = 0;
  for (int l = 0; l < static_cast<int>(profile.layers.size()); ++l) {
    const LayerProfile& layer = profile.layers[static_cast<std::size_t>(l)];
    if (placement[static_cast<std::size_t>(stage_of(from, l))] !=
        placement[static_cast<std::size_t>(stage_of(to, l))]) {
      bytes += layer.parameter_bytes + layer.optimizer_bytes;
    }
  }
  return bytes;
}

}  // namespace thinwire::pipeline
