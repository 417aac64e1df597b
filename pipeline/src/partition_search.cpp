#include <algorithm>
#include <limits>

#include "partition_solvers.hpp"

namespace thinwire::pipeline {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr long node_budget = 1'000'000;  // some 20 ms

/// Assigns stages in order and cuts off what cannot beat the best partition known.
class BranchAndBound {
 public:
  BranchAndBound(const PartitionTables& tables, PartitionResult start)
      : tables_{tables},
        best_{std::move(start)},
        bounds_(static_cast<std::size_t>(tables.stages()) + 1, 0),
        loads_(static_cast<std::size_t>(tables.problem().ranks()), 0.0),
        held_(loads_.size(), 0.0),
        last_stage_(loads_.size(), -1) {
    for (int s = 0; s < tables.stages(); ++s) {
      last_stage_[static_cast<std::size_t>(tables.rank_of(s))] = s;
    }
  }

  PartitionResult run() {
    descend(0);
    best_.optimal = nodes_ < node_budget;
    return best_;
  }

 private:
  double best() const { return best_.bounds.empty() ? infinity : best_.bottleneck; }

  /// Can the ranks that still get a stage take all layers from `from` below the best bottleneck?
  bool has_room(int stage, int from) const {
    double room = 0;
    for (int s = stage; s < tables_.stages(); ++s) {
      const auto rank = static_cast<std::size_t>(tables_.rank_of(s));
      if (last_stage_[rank] == s) room += (best() - loads_[rank]) * tables_.speed(s);
    }
    return room * (1 + 1e-9) >= tables_.work_from(from);
  }

  void descend(int stage) {
    if (++nodes_ >= node_budget) return;
    const int from = bounds_[static_cast<std::size_t>(stage)];
    const int stages = tables_.stages();
    if (stage == stages) {
      const double bottleneck = tables_.bottleneck(bounds_);
      if (bottleneck < best()) best_ = {bounds_, bottleneck, false};
      return;
    }
    if (!has_room(stage, from)) return;
    const auto rank = static_cast<std::size_t>(tables_.rank_of(stage));
    const double load = loads_[rank];
    const double held = held_[rank];
    const int last = tables_.layers() - (stages - 1 - stage);
    const int first = stage + 1 == stages ? tables_.layers() : from + 1;
    for (int end = first; end <= last; ++end) {
      loads_[rank] = load + tables_.load(stage, from, end);
      held_[rank] = held + tables_.bytes(stage, from, end);
      if (loads_[rank] >= best() || held_[rank] > tables_.cap(static_cast<int>(rank))) break;
      bounds_[static_cast<std::size_t>(stage) + 1] = end;
      descend(stage + 1);
    }
    loads_[rank] = load;
    held_[rank] = held;
  }

  const PartitionTables& tables_;
  PartitionResult best_;
  Partition bounds_;
  std::vector<double> loads_;
  std::vector<double> held_;
  std::vector<int> last_stage_;  ///< rank -> its last stage
  long nodes_ = 0;
};

/// Sum of squared rank loads: tells better from worse where the bottleneck alone does not.
double spread(const PartitionTables& tables, const Partition& bounds) {
  std::vector<double> loads(static_cast<std::size_t>(tables.problem().ranks()), 0.0);
  for (int s = 0; s < tables.stages(); ++s) {
    loads[static_cast<std::size_t>(tables.rank_of(s))] += tables.load(
        s, bounds[static_cast<std::size_t>(s)], bounds[static_cast<std::size_t>(s) + 1]);
  }
  double sum = 0;
  for (double load : loads) sum += load * load;
  return sum;
}

/// Moves one boundary, or one layer through a run of boundaries, while that helps.
PartitionResult climb(const PartitionTables& tables, Partition bounds) {
  double bottleneck = tables.bottleneck(bounds);
  double squares = spread(tables, bounds);
  bool better = true;
  while (better) {
    better = false;
    for (std::size_t from = 1; from + 1 < bounds.size(); ++from) {
      for (std::size_t to = from; to + 1 < bounds.size(); ++to) {
        for (int shift : {-1, 1}) {
          Partition moved = bounds;
          for (std::size_t cut = from; cut <= to; ++cut) moved[cut] += shift;
          const double value = tables.bottleneck(moved);
          if (value == infinity || value > bottleneck) continue;
          const double moved_squares = spread(tables, moved);
          if (value == bottleneck && moved_squares >= squares * (1 - 1e-12)) continue;
          bounds = std::move(moved);
          bottleneck = value;
          squares = moved_squares;
          better = true;
        }
      }
    }
  }
  return {bounds, bottleneck, false};
}

}  // namespace

PartitionResult solve_by_search(const PartitionTables& tables) {
  PartitionResult start = climb(tables, uniform_partition(tables.layers(), tables.stages()));
  if (start.bottleneck == infinity) start = {};
  return BranchAndBound{tables, std::move(start)}.run();
}

}  // namespace thinwire::pipeline
