#include <algorithm>
#include <limits>

#include "partition_solvers.hpp"

namespace thinwire::pipeline {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

std::vector<double> prefix_sums(const std::vector<double>& values) {
  std::vector<double> sums(values.size() + 1, 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) sums[i + 1] = sums[i] + values[i];
  return sums;
}

}  // namespace

PartitionTables::PartitionTables(const PartitionProblem& problem)
    : problem_{problem}, seconds_{prefix_sums(problem.seconds)} {
  for (int rank : problem.placement) {
    slowness_.push_back(
        problem.speeds.empty() ? 1.0 : 1.0 / problem.speeds[static_cast<std::size_t>(rank)]);
  }
  caps_.assign(static_cast<std::size_t>(problem.ranks()), infinity);
  if (problem.caps.empty() || problem.bytes.empty()) return;
  for (const auto& row : problem.bytes) bytes_.push_back(prefix_sums(row));
  for (std::size_t rank = 0; rank < caps_.size(); ++rank) {
    caps_[rank] = problem.caps[rank] * (1 + 1e-12);
  }
}

double PartitionTables::lower_bound() const {
  std::map<int, double> speeds;
  for (int s = 0; s < stages(); ++s) speeds[rank_of(s)] = speed(s);
  double together = 0;
  for (const auto& [rank, value] : speeds) together += value;
  return work_from(0) / together;
}

double PartitionTables::bottleneck(const Partition& bounds) const {
  std::vector<double> loads(caps_.size(), 0.0);
  std::vector<double> held(caps_.size(), 0.0);
  std::map<std::pair<int, int>, double> lanes;
  double highest = 0;
  for (int stage = 0; stage < stages(); ++stage) {
    const int from = bounds[static_cast<std::size_t>(stage)];
    const int to = bounds[static_cast<std::size_t>(stage) + 1];
    if (from >= to) return infinity;
    const auto rank = static_cast<std::size_t>(rank_of(stage));
    loads[rank] += load(stage, from, to);
    held[rank] += bytes(stage, from, to);
    if (held[rank] > caps_[rank]) return infinity;
    highest = std::max(highest, loads[rank]);
    if (stage + 1 == stages() || problem_.transfer_seconds.empty()) continue;
    double& lane = lanes[{rank_of(stage), rank_of(stage + 1)}];
    lane += transfer(stage, to);
    highest = std::max(highest, lane);
  }
  return highest;
}

/// best[s][j]: smallest bottleneck of layers [0, j) on stages [0, s]. The last stage's first layer
/// i is tried from j down: its load only grows, so the loop ends once that alone is no better.
PartitionResult solve_chain(const PartitionTables& tables) {
  const int n = tables.layers();
  const int stages = tables.stages();
  const auto width = static_cast<std::size_t>(n) + 1;
  std::vector<double> best(width, infinity);
  std::vector<double> before(width, infinity);
  std::vector<int> first(static_cast<std::size_t>(stages) * width, -1);
  before[0] = 0;
  for (int s = 0; s < stages; ++s) {
    std::fill(best.begin(), best.end(), infinity);
    const double cap = tables.cap(tables.rank_of(s));
    for (int j = s + 1; j <= n - (stages - 1 - s); ++j) {
      double found = infinity;
      for (int i = j - 1; i >= s; --i) {
        const double load = tables.load(s, i, j);
        if (load >= found || tables.bytes(s, i, j) > cap) break;
        double bottleneck = std::max(before[static_cast<std::size_t>(i)], load);
        if (s > 0 && i > 0) bottleneck = std::max(bottleneck, tables.transfer(s - 1, i));
        if (bottleneck < found) {
          found = bottleneck;
          first[static_cast<std::size_t>(s) * width + static_cast<std::size_t>(j)] = i;
        }
      }
      best[static_cast<std::size_t>(j)] = found;
    }
    std::swap(best, before);
  }
  PartitionResult result;
  result.bottleneck = before[static_cast<std::size_t>(n)];
  if (result.bottleneck == infinity) return result;
  result.optimal = true;
  result.bounds.assign(static_cast<std::size_t>(stages) + 1, n);
  for (int s = stages - 1; s >= 0; --s) {
    const auto end = static_cast<std::size_t>(result.bounds[static_cast<std::size_t>(s) + 1]);
    result.bounds[static_cast<std::size_t>(s)] = first[static_cast<std::size_t>(s) * width + end];
  }
  return result;
}

}  // namespace thinwire::pipeline
