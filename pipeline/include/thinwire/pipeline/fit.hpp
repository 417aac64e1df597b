#pragma once

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/partition.hpp"
#include "thinwire/pipeline/profile.hpp"
#include "thinwire/pipeline/schedule.hpp"
#include "thinwire/pipeline/simulator.hpp"

namespace thinwire::pipeline {

/// What a model's layers are to be fitted to.
struct FitRequest {
  double samples = 1;      ///< of one micro-batch
  bool recompute = false;  ///< see stage_costs
  Partition current;       ///< where the layers are now, on the same placement; empty: nowhere
  Execution execution;
};

/// A model split for one schedule.
struct Fit {
  Partition bounds;
  double bottleneck = 0;  ///< see PartitionResult
  bool optimal = false;
  Costs costs;
  Timeline timeline;
};

/// The partition problem of a profile under a schedule: seconds of F + I + W, ranks' speeds, lanes'
/// seconds, and in `bytes` parameters, optimizer state and the activations of as many micro-batches
/// as the schedule has in flight when the rank is fullest.
PartitionProblem partition_problem(const Profile& profile, const Schedule& schedule,
                                   const FitRequest& request);

/// Smallest bottleneck; of equal partitions the one with the shortest simulated step, then with the
/// fewest bytes moved from `current`. The simulated peak is what must hold the caps: where buffers
/// in flight push it over, the split is repeated with that much less room. Throws InvalidArgument
/// that names rank, bytes and cap if no split holds.
Fit fit(const Profile& profile, const Schedule& schedule, const FitRequest& request);

/// Parameter and optimizer bytes of the layers that change ranks.
double bytes_moved(const Profile& profile, const std::vector<int>& placement, const Partition& from,
                   const Partition& to);

}  // namespace thinwire::pipeline
