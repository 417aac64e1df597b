#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

enum class Rule {
  well_formed,   ///< a stage, rank or micro-batch is out of range
  completeness,  ///< an action is missing, doubled or uncalled for
  order,         ///< F, then B or I, then W; weight gradients by ascending micro-batch
  transfer,      ///< sends and receives of a lane do not pair up, or stand before their data
  reduction,     ///< REDUCE_GRAD is missing, doubled or before the last weight gradient
  sharding,      ///< compute on a resharded stage, or UNSHARD and RESHARD out of turn
  deadlock,      ///< the graph has a cycle
  memory,        ///< a rank holds more than its cap
};
std::string_view to_string(Rule rule);

/// Why a schedule was refused, and where.
struct Defect {
  Rule rule;
  int rank;                        ///< -1 where no list is at fault (a missing action)
  int position;                    ///< index in actions[rank], or -1
  std::string message;             ///< rule, place, action and what to do, for people
  std::vector<std::string> cycle;  ///< deadlock: each waits for the one before it, round and round
};

struct Verdict {
  std::optional<Defect> defect;
  /// Set if the schedule is sound on lanes of their own but not with all of a rank's transfers on
  /// one lane. It then needs one issuing thread, NCCL_LAUNCH_ORDER_IMPLICIT=1 and
  /// CUDA_DEVICE_MAX_CONNECTIONS above the number of lanes.
  std::optional<Defect> one_lane_defect;
  bool valid() const { return !defect.has_value(); }
};

/// Proves that a schedule, lowered or not, is complete and ordered (by sets, not by counts), pairs
/// its transfers in kind, stage, micro-batch and so bytes, holds no more than `costs` allows (if
/// given) and cannot deadlock: the graph of compute, transfers (a send and its receive are one
/// node, so no buffering is relied on) and reductions has no cycle. A REDUCE_GRAD is one node for
/// all replicas, which run the same lists. The memory checked is parameters and activations, which
/// do not depend on time; simulate() adds the buffers in flight. Pure; thread-safe.
Verdict validate(const Schedule& schedule, const Execution& execution = {},
                 const Costs* costs = nullptr);

/// validate(), with the defect thrown as InvalidArgument.
void require_valid(const Schedule& schedule, const Execution& execution = {},
                   const Costs* costs = nullptr);

}  // namespace thinwire::pipeline
