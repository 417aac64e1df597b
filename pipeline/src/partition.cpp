#include "thinwire/pipeline/partition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "partition_solvers.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

void require_numbers(const PartitionProblem& problem) {
  const auto require = [](double value, std::string_view what, std::size_t index) {
    THINWIRE_EXPECTS(
        std::isfinite(value) && value >= 0, InvalidArgument,
        fmt::format("partition: {} {} is {}, but must be finite and >= 0", what, index, value));
  };
  for (std::size_t i = 0; i < problem.seconds.size(); ++i) {
    require(problem.seconds[i], "seconds of layer", i);
  }
  for (std::size_t i = 0; i < problem.speeds.size(); ++i) {
    require(problem.speeds[i], "speed of rank", i);
    THINWIRE_EXPECTS(problem.speeds[i] > 0, InvalidArgument,
                     fmt::format("partition: speed of rank {} is 0", i));
  }
  const auto require_table = [&](const std::vector<std::vector<double>>& table, int stages,
                                 std::string_view what) {
    if (table.empty()) return;
    THINWIRE_EXPECTS(
        static_cast<int>(table.size()) == stages, InvalidArgument,
        fmt::format("partition: {} of {} stages, but there are {}", what, table.size(), stages));
    for (const auto& row : table) {
      THINWIRE_EXPECTS(row.size() == problem.seconds.size(), InvalidArgument,
                       fmt::format("partition: {} of {} layers, but there are {}", what, row.size(),
                                   problem.seconds.size()));
      for (std::size_t i = 0; i < row.size(); ++i) require(row[i], what, i);
    }
  };
  require_table(problem.bytes, problem.stages(), "bytes");
  require_table(problem.transfer_seconds, problem.stages() - 1, "transfer seconds");
}

void require_possible(const PartitionProblem& problem) {
  const int ranks = problem.ranks();
  THINWIRE_EXPECTS(problem.stages() >= 1, InvalidArgument, "partition: there are no stages");
  THINWIRE_EXPECTS(
      problem.stages() <= problem.layers(), InvalidArgument,
      fmt::format("partition: {} stages on {} ranks need at least {} layers, but there "
                  "are {}",
                  problem.stages(), ranks, problem.stages(), problem.layers()));
  THINWIRE_EXPECTS(
      problem.speeds.empty() || static_cast<int>(problem.speeds.size()) >= ranks, InvalidArgument,
      fmt::format("partition: speeds of {} ranks, but there are {}", problem.speeds.size(), ranks));
  THINWIRE_EXPECTS(
      problem.caps.empty() || static_cast<int>(problem.caps.size()) >= ranks, InvalidArgument,
      fmt::format("partition: caps of {} ranks, but there are {}", problem.caps.size(), ranks));
}

bool has_one_stage_a_rank(const PartitionProblem& problem) {
  const std::set<int> ranks{problem.placement.begin(), problem.placement.end()};
  return ranks.size() == problem.placement.size();
}

bool is_v(const PartitionProblem& problem) {
  const int stages = problem.stages();
  const std::set<int> ranks{problem.placement.begin(), problem.placement.end()};
  if (static_cast<int>(ranks.size()) * 2 != stages) return false;
  for (int s = 0; s < stages; ++s) {
    if (problem.placement[static_cast<std::size_t>(s)] !=
        problem.placement[static_cast<std::size_t>(stages - 1 - s)]) {
      return false;
    }
  }
  return true;
}

}  // namespace

int PartitionProblem::ranks() const {
  return placement.empty() ? 0 : *std::max_element(placement.begin(), placement.end()) + 1;
}

double bottleneck_of(const PartitionProblem& problem, const Partition& bounds) {
  return PartitionTables{problem}.bottleneck(bounds);
}

PartitionResult partition(const PartitionProblem& problem) {
  require_numbers(problem);
  require_possible(problem);
  const PartitionTables tables{problem};
  PartitionResult result;
  if (has_one_stage_a_rank(problem)) {
    result = solve_chain(tables);
  } else if (is_v(problem)) {
    result = solve_v(tables);
  } else {
    result = solve_by_search(tables);
  }
  THINWIRE_EXPECTS(!result.bounds.empty(), InvalidArgument,
                   fmt::format("partition: no split of {} layers into {} stages keeps every rank "
                               "within its memory cap (smallest cap {:.0f} bytes)",
                               problem.layers(), problem.stages(),
                               *std::min_element(problem.caps.begin(), problem.caps.end())));
  return result;
}

std::vector<Partition> equal_partitions(const PartitionProblem& problem,
                                        const PartitionResult& best, int limit) {
  const PartitionTables tables{problem};
  const double bound = best.bottleneck * (1 + 1e-12);
  std::vector<Partition> found{best.bounds};
  std::set<Partition> seen{best.bounds};
  for (std::size_t next = 0; next < found.size(); ++next) {
    for (std::size_t cut = 1; cut + 1 < best.bounds.size(); ++cut) {
      for (int shift : {-1, 1}) {
        if (static_cast<int>(found.size()) >= limit) return found;
        Partition moved = found[next];
        moved[cut] += shift;
        if (seen.contains(moved) || tables.bottleneck(moved) > bound) continue;
        seen.insert(moved);
        found.push_back(std::move(moved));
      }
    }
  }
  return found;
}

Partition uniform_partition(int layers, int stages) {
  THINWIRE_EXPECTS(
      stages >= 1 && stages <= layers, InvalidArgument,
      fmt::format("{} stages for {} layers: need 1 <= stages <= layers", stages, layers));
  Partition bounds(static_cast<std::size_t>(stages) + 1);
  for (int s = 0; s <= stages; ++s) {
    bounds[static_cast<std::size_t>(s)] =
        static_cast<int>(static_cast<long long>(layers) * s / stages);
  }
  return bounds;
}

}  // namespace thinwire::pipeline
