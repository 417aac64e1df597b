#pragma once

#include <string_view>
#include <vector>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// Why a rank does not compute.
enum class Cause {
  warm_up,     ///< its first action waits for the pipeline to fill
  dependency,  ///< another stage still computes what it needs
  transfer,    ///< what it needs is made and on its way, or its gradients are being reduced
  drain,       ///< it has finished and others have not
  imbalance,   ///< as dependency, but it has less work than the busiest rank
};
constexpr int causes = 5;
std::string_view to_string(Cause cause);

/// One stretch of time, in seconds from the start of the step.
struct Span {
  double start = 0;
  double end = 0;
};
struct ComputeSpan : Span {
  Action action;
};
struct TransferSpan : Span {
  Action action;  ///< the send, or the REDUCE_GRAD
  int source = 0;
  int destination = 0;
};
struct WaitSpan : Span {
  Cause cause;
};

/// One rank's step. busy + all waits = step time.
struct RankTimeline {
  double busy = 0;                   ///< seconds of compute and optimizer
  double waits[causes] = {};         ///< seconds by Cause
  double peak_bytes = 0;             ///< parameters, activations, buffers in flight, transients
  double peak_activation_bytes = 0;  ///< the activations' part alone, at its own peak
  std::vector<ComputeSpan> compute;  ///< in program order
  std::vector<WaitSpan> idle;        ///< in order of time
  Span optimizer;

  double wait(Cause cause) const { return waits[static_cast<int>(cause)]; }
};

struct Timeline {
  double step_time = 0;
  std::vector<RankTimeline> ranks;
  std::vector<TransferSpan> transfers;  ///< transfers and reductions

  /// Idle share of all ranks together: 1 - sum(busy) / (ranks * step_time).
  double bubble() const;
  double peak_bytes() const;  ///< of the fullest rank
};

/// Predicts one step: the longest path through the validator's graph. Each lane carries one message
/// at a time, in order; REDUCE_GRAD runs beside compute, one at a time on a rank; the optimizer
/// runs when a rank's compute and reductions have ended. Parts of an overlapped cell run one after
/// the other. Memory: see StageCost; a receive buffer lives from the start of its transfer to its
/// use, an output until its send ends. Deterministic. Throws InvalidArgument for costs that
/// require_usable refuses and for schedules that validate refuses (deadlock, incomplete, ...),
/// caps apart. Pure; thread-safe.
Timeline simulate(const Schedule& schedule, const Costs& costs, const Execution& execution = {});

}  // namespace thinwire::pipeline
