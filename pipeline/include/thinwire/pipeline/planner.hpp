#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/fit.hpp"
#include "thinwire/pipeline/profile.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// All that a runtime needs to know: the JSON file "thinwire-plan". A plain value.
struct Plan {
  std::string model;
  Schedule schedule;        ///< compute only; lower() it to run it
  Partition bounds;         ///< layers of each stage
  int microbatch_size = 1;  ///< samples
  bool recompute = false;
  double step_time = 0;   ///< predicted seconds
  double bubble = 0;      ///< predicted idle share of all ranks
  double peak_bytes = 0;  ///< predicted, of the fullest rank

  friend bool operator==(const Plan&, const Plan&) = default;
};

/// Both throw FormatError as the profile's do.
Plan plan_from_json(std::string_view text);
std::string to_json(const Plan& plan);

enum class Recompute { never, always, where_needed };

struct PlanRequest {
  int ranks = 1;
  int batch = 1;                       ///< samples of one step of one pipeline
  std::vector<std::string> schedules;  ///< names of generators and "greedy"; empty: all
  int max_chunks = 4;                  ///< stages a rank, at most
  std::vector<int> microbatch_sizes;   ///< divisors of batch; empty: all of them
  Recompute recompute = Recompute::never;
  Partition current;  ///< see FitRequest; only used where the number of stages is the same
  Execution execution;
};

/// One way that was considered.
struct PlanCandidate {
  std::string schedule;
  int chunks = 1;
  int microbatches = 1;
  int microbatch_size = 1;
  bool recompute = false;
  double least_time = 0;  ///< no step is shorter: the bottleneck times the micro-batches
  double step_time = 0;   ///< simulated; 0 if it was not
  double bubble = 0;
  double peak_bytes = 0;
  std::string refused;  ///< why it cannot be or need not be simulated; empty if it was
};

struct PlanReport {
  Plan best;
  std::vector<PlanCandidate> candidates;  ///< quickest first, then those not simulated
};

/// Simulates every valid (schedule, chunks, size of micro-batch) under the caps and takes the
/// quickest; what cannot be quicker than the best known by its bottleneck alone is not simulated.
/// `where_needed` tries recompute for what does not fit without. Deterministic. Throws
/// InvalidArgument for an impossible request and, with the table, if nothing fits.
PlanReport make_plan(const Profile& profile, const PlanRequest& request);

/// The report as a table for people: the best `rows` and a line on the rest.
std::string to_table(const PlanReport& report, int rows = 12);

}  // namespace thinwire::pipeline
