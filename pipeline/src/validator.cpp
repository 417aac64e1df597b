#include "thinwire/pipeline/validator.hpp"

#include <fmt/format.h>

#include <array>

#include "checks.hpp"
#include "graph.hpp"
#include "memory.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/lowering.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::array<std::string_view, 8> rule_names = {"well-formed", "completeness", "order",
                                                        "transfer",    "reduction",    "sharding",
                                                        "deadlock",    "memory"};

std::optional<Defect> find_deadlock(const Schedule& schedule, const Execution& execution) {
  const Graph graph = build_graph(schedule, execution);
  const std::vector<int> cycle = graph.find_cycle();
  if (cycle.empty()) return std::nullopt;
  const Node& first = graph.nodes[static_cast<std::size_t>(cycle.front())];
  Defect defect{Rule::deadlock, first.rank, first.position, "deadlock:", {}};
  for (int index : cycle) {
    defect.cycle.push_back(describe(graph.nodes[static_cast<std::size_t>(index)]));
  }
  for (std::size_t i = cycle.size(); i-- > 0;) {
    defect.message += fmt::format("\n  {} waits for {}", defect.cycle[i],
                                  defect.cycle[(i + cycle.size() - 1) % cycle.size()]);
  }
  return defect;
}

/// A compute-only schedule must also lower: all parts of a cell start together there.
std::optional<Defect> find_lowering_deadlock(const Schedule& schedule) {
  try {
    lower(schedule);
    return std::nullopt;
  } catch (const InvalidArgument& error) {
    return Defect{Rule::deadlock, -1, -1, error.what(), {}};
  }
}

std::optional<Defect> find_overflow(const Schedule& schedule, const Costs& costs) {
  for (int rank = 0; rank < schedule.ranks() && !costs.caps.empty(); ++rank) {
    const double cap = costs.caps[static_cast<std::size_t>(rank)];
    double held = 0;
    for (int stage : schedule.stages_of(rank)) {
      held += costs.stages[static_cast<std::size_t>(stage)].fixed;
    }
    const auto& list = schedule.actions[static_cast<std::size_t>(rank)];
    for (int position = 0; position < static_cast<int>(list.size()); ++position) {
      const Action& action = list[static_cast<std::size_t>(position)];
      const StageCost& stage = costs.stages[static_cast<std::size_t>(action.stage)];
      const double during = held + bytes_at_start(action.kind, stage);
      held = during + bytes_at_end(action.kind, stage);
      if (std::max(during, held) > cap) {
        return make_defect(Rule::memory, rank, position, &action,
                           fmt::format("the rank holds {:.0f} bytes, but its cap is {:.0f}",
                                       std::max(during, held), cap));
      }
    }
  }
  return std::nullopt;
}

std::optional<Defect> find_defect(const Schedule& schedule, const Execution& execution,
                                  const Costs* costs) {
  try {
    require_well_formed(schedule);
  } catch (const InvalidArgument& error) {
    return Defect{Rule::well_formed, -1, -1, fmt::format("well-formed: {}", error.what()), {}};
  }
  if (auto defect = check_sets(schedule)) return defect;
  if (auto defect = find_deadlock(schedule, {})) return defect;
  if (!schedule.has_transfers()) {
    if (auto defect = find_lowering_deadlock(schedule)) return defect;
  }
  if (execution != Execution{}) {
    if (auto defect = find_deadlock(schedule, execution)) return defect;
  }
  if (costs == nullptr) return std::nullopt;
  require_usable(*costs, schedule.stages(), schedule.ranks());
  return find_overflow(schedule, *costs);
}

}  // namespace

std::string_view to_string(Rule rule) { return rule_names[static_cast<std::size_t>(rule)]; }

Verdict validate(const Schedule& schedule, const Execution& execution, const Costs* costs) {
  Verdict verdict{find_defect(schedule, execution, costs), std::nullopt};
  if (verdict.valid() && !execution.one_lane) {
    Execution strict = execution;
    strict.one_lane = true;
    verdict.one_lane_defect = find_deadlock(schedule, strict);
  }
  return verdict;
}

void require_valid(const Schedule& schedule, const Execution& execution, const Costs* costs) {
  const auto defect = find_defect(schedule, execution, costs);
  THINWIRE_EXPECTS(!defect, InvalidArgument, defect->message);
}

}  // namespace thinwire::pipeline
