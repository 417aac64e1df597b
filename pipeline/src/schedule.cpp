#include "thinwire/pipeline/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

bool holds(const Schedule& schedule, bool (*wanted)(Kind)) {
  return std::any_of(schedule.actions.begin(), schedule.actions.end(), [&](const auto& list) {
    return std::any_of(list.begin(), list.end(),
                       [&](const Action& action) { return wanted(action.kind); });
  });
}

/// The rule that `action` breaks on `rank`, or empty.
std::string broken_rule(const Schedule& schedule, int rank, const Action& action) {
  if (action.stage < 0 || action.stage >= schedule.stages()) {
    return fmt::format("stage {} is not in [0, {})", action.stage, schedule.stages());
  }
  const int home = schedule.placement[static_cast<std::size_t>(action.stage)];
  if (home != rank) return fmt::format("stage {} is placed on rank {}", action.stage, home);
  if (has_microbatch(action.kind)) {
    if (action.microbatch < 0 || action.microbatch >= schedule.microbatches) {
      return fmt::format("micro-batch {} is not in [0, {})", action.microbatch,
                         schedule.microbatches);
    }
  } else if (action.microbatch != -1) {
    return fmt::format("{} takes no micro-batch", to_string(action.kind));
  }
  if (action.joined && !is_compute(action.kind)) return "only F, B, I and W can overlap";
  return {};
}

}  // namespace

std::vector<int> Schedule::stages_of(int rank) const {
  std::vector<int> found;
  for (int stage = 0; stage < stages(); ++stage) {
    if (placement[static_cast<std::size_t>(stage)] == rank) found.push_back(stage);
  }
  return found;
}

bool Schedule::has_transfers() const {
  return holds(*this, [](Kind kind) { return is_send(kind) || is_receive(kind); });
}

bool Schedule::has_reductions() const {
  return holds(*this, [](Kind kind) { return kind == Kind::reduce_gradient; });
}

std::vector<int> loop_placement(int ranks, int chunks) {
  std::vector<int> placement(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(chunks));
  for (std::size_t stage = 0; stage < placement.size(); ++stage) {
    placement[stage] = static_cast<int>(stage) % ranks;
  }
  return placement;
}

std::vector<int> v_placement(int ranks) {
  std::vector<int> placement;
  for (int rank = 0; rank < ranks; ++rank) placement.push_back(rank);
  for (int rank = ranks - 1; rank >= 0; --rank) placement.push_back(rank);
  return placement;
}

std::vector<Lane> lanes_of(const std::vector<int>& placement) {
  std::vector<Lane> lanes;
  for (std::size_t stage = 0; stage + 1 < placement.size(); ++stage) {
    const int here = placement[stage];
    const int next = placement[stage + 1];
    if (here == next) continue;
    lanes.push_back({here, next, true});
    lanes.push_back({next, here, false});
  }
  std::sort(lanes.begin(), lanes.end());
  lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
  return lanes;
}

std::string to_string(const Lane& lane) {
  return fmt::format("{}>{}{}", lane.source, lane.destination, lane.forward ? 'F' : 'B');
}

void require_well_formed(const Schedule& schedule) {
  THINWIRE_EXPECTS(schedule.ranks() >= 1, InvalidArgument, "a schedule needs at least one rank");
  THINWIRE_EXPECTS(
      schedule.microbatches >= 1, InvalidArgument,
      fmt::format("a schedule needs at least one micro-batch, not {}", schedule.microbatches));
  // Bounds every table of (stage, micro-batch) by what the lists really hold.
  std::int64_t held = 0;
  for (const auto& list : schedule.actions) held += static_cast<std::int64_t>(list.size());
  THINWIRE_EXPECTS(std::int64_t{schedule.stages()} * schedule.microbatches <= held, InvalidArgument,
                   fmt::format("{} actions in all, but {} stages and {} micro-batches need more",
                               held, schedule.stages(), schedule.microbatches));
  for (int stage = 0; stage < schedule.stages(); ++stage) {
    const int rank = schedule.placement[static_cast<std::size_t>(stage)];
    THINWIRE_EXPECTS(rank >= 0 && rank < schedule.ranks(), InvalidArgument,
                     fmt::format("stage {} is placed on rank {}, which is not in [0, {})", stage,
                                 rank, schedule.ranks()));
  }
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    const auto& list = schedule.actions[static_cast<std::size_t>(rank)];
    for (std::size_t position = 0; position < list.size(); ++position) {
      std::string rule = broken_rule(schedule, rank, list[position]);
      if (rule.empty() && list[position].joined && position + 1 == list.size()) {
        rule = "an overlapped cell has no second action";
      }
      THINWIRE_EXPECTS(rule.empty(), InvalidArgument,
                       fmt::format("rank {}, position {}, {}: {}", rank, position,
                                   to_string(list[position]), rule));
    }
  }
}

}  // namespace thinwire::pipeline
