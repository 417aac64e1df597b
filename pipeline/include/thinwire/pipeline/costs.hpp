#pragma once

#include <vector>

namespace thinwire::pipeline {

/// What one stage costs: seconds and bytes for one micro-batch unless it says otherwise. All
/// finite and >= 0.
struct StageCost {
  double forward = 0;
  double backward = 0;         ///< B, the whole backward
  double input_gradient = 0;   ///< I
  double weight_gradient = 0;  ///< W
  double send_forward = 0;     ///< seconds on the lane to the next stage; unused on one rank
  double send_backward = 0;    ///< seconds on the lane to the stage before
  double reduce = 0;           ///< seconds of REDUCE_GRAD, once a step
  double optimizer = 0;        ///< seconds, once a step

  double activation = 0;         ///< bytes held from F to I (or B)
  double weight_activation = 0;  ///< bytes held from I to W
  double transient = 0;          ///< bytes more while I or B runs (recompute brings them back)
  double input = 0;   ///< bytes received from the stage before, and sent back as gradient
  double output = 0;  ///< bytes sent to the next stage
  double fixed = 0;   ///< bytes of parameters, gradients and optimizer state
};

struct Costs {
  std::vector<StageCost> stages;
  std::vector<double> caps;  ///< bytes a rank may hold; empty: no limit
};

/// Every stage alike, B = I + W, one byte held from F to W, no transfers.
Costs uniform_costs(int stages, double forward, double input_gradient, double weight_gradient);

/// Throws InvalidArgument that names stage and field for a NaN or negative cost, and if the number
/// of stages or caps is not the one given.
void require_usable(const Costs& costs, int stages, int ranks);

/// How ranks carry out their lists.
struct Execution {
  /// All transfers and reductions of a rank take turns in list order; else every (source,
  /// destination, F or B) is a lane of its own.
  bool one_lane = false;
  /// The receive k of a lane is posted after the consumer of receive k - prefetch; 0: no limit.
  int prefetch = 0;
  enum class Host {
    asynchronous,    ///< CUDA streams: nothing holds the host up
    posts_in_order,  ///< compute blocks the host: a transfer is posted after the compute before it
    blocking,        ///< every action ends before the next begins
  } host = Host::asynchronous;

  friend bool operator==(const Execution&, const Execution&) = default;
};

}  // namespace thinwire::pipeline
