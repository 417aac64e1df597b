#pragma once

#include <map>
#include <utility>
#include <vector>

#include "thinwire/pipeline/partition.hpp"

namespace thinwire::pipeline {

/// A problem's numbers as prefix sums.
class PartitionTables {
 public:
  explicit PartitionTables(const PartitionProblem& problem);

  const PartitionProblem& problem() const { return problem_; }
  int layers() const { return problem_.layers(); }
  int stages() const { return problem_.stages(); }
  int rank_of(int stage) const { return problem_.placement[static_cast<std::size_t>(stage)]; }

  /// Seconds of layers [from, to) on the rank of `stage`.
  double load(int stage, int from, int to) const {
    return (seconds_[static_cast<std::size_t>(to)] - seconds_[static_cast<std::size_t>(from)]) *
           slowness_[static_cast<std::size_t>(stage)];
  }
  /// Bytes of layers [from, to) as `stage`; 0 where memory is not limited.
  double bytes(int stage, int from, int to) const {
    if (bytes_.empty()) return 0;
    const auto& row = bytes_[static_cast<std::size_t>(stage)];
    return row[static_cast<std::size_t>(to)] - row[static_cast<std::size_t>(from)];
  }
  /// Bytes that the rank may hold, with slack for the rounding of sums.
  double cap(int rank) const { return caps_[static_cast<std::size_t>(rank)]; }
  /// Seconds of the transfer after `stage` if it ends before layer `end`.
  double transfer(int stage, int end) const {
    if (problem_.transfer_seconds.empty() || rank_of(stage) == rank_of(stage + 1)) return 0;
    return problem_
        .transfer_seconds[static_cast<std::size_t>(stage)][static_cast<std::size_t>(end) - 1];
  }
  /// Seconds at speed 1 of layers [from, layers).
  double work_from(int from) const {
    return seconds_.back() - seconds_[static_cast<std::size_t>(from)];
  }
  double speed(int stage) const { return 1 / slowness_[static_cast<std::size_t>(stage)]; }
  /// All work over the speed of all ranks: no partition is below it.
  double lower_bound() const;
  /// See bottleneck_of.
  double bottleneck(const Partition& bounds) const;

 private:
  const PartitionProblem& problem_;
  std::vector<double> seconds_;
  std::vector<double> slowness_;  ///< of the rank of each stage
  std::vector<std::vector<double>> bytes_;
  std::vector<double> caps_;
};

/// Each returns empty bounds if no partition holds the caps.
PartitionResult solve_chain(const PartitionTables& tables);
PartitionResult solve_v(const PartitionTables& tables);
PartitionResult solve_by_search(const PartitionTables& tables);

}  // namespace thinwire::pipeline
