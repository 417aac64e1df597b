#pragma once

#include <vector>

namespace thinwire::pipeline {

/// Where the stages of a model begin: stage s holds layers [bounds[s], bounds[s + 1]); bounds[0] is
/// 0, the last entry the number of layers, every stage has at least one.
using Partition = std::vector<int>;

/// Contiguous partition of layers over stages, stages placed on ranks of different speed. What
/// depends on the schedule (micro-batches in flight) is in `bytes`.
struct PartitionProblem {
  std::vector<double> seconds;  ///< layer -> F + I + W of one micro-batch at speed 1
  std::vector<int> placement;   ///< stage -> rank; see schedule.hpp
  std::vector<double> speeds;   ///< rank -> factor > 0 (time = seconds / speed); empty: all 1
  std::vector<std::vector<double>> bytes;  ///< [stage][layer] held there; empty: not counted
  std::vector<double> caps;                ///< rank -> bytes; empty: no limit
  /// [stage][layer]: seconds a lane is busy per micro-batch if the stage ends after that layer, for
  /// all stages but the last; empty: free. Lanes work beside compute, so they are loads of their
  /// own.
  std::vector<std::vector<double>> transfer_seconds;

  int layers() const { return static_cast<int>(seconds.size()); }
  int stages() const { return static_cast<int>(placement.size()); }
  int ranks() const;
};

struct PartitionResult {
  Partition bounds;
  double bottleneck = 0;  ///< seconds per micro-batch of the busiest rank or lane
  bool optimal = false;   ///< proved; false only where a search over many chunks ran out of budget
};

/// The busiest rank's (sum over its stages) or lane's seconds; infinity where a cap does not hold
/// or a stage is empty.
double bottleneck_of(const PartitionProblem& problem, const Partition& bounds);

/// Smallest bottleneck. One stage a rank: dynamic programming, O(layers^2 * ranks) at worst, exact.
/// A V (stages r and 2p-1-r): dynamic programming over (prefix, suffix) under a bisected bound,
/// exact. Other placements: branch and bound from a local search, exact for small problems (see
/// `optimal`). Throws InvalidArgument that names the rule for bad numbers, for more stages than
/// layers and for caps that no partition holds. Pure; thread-safe.
PartitionResult partition(const PartitionProblem& problem);

/// Up to `limit` partitions as good as `best`, itself first, reached by moving one boundary at a
/// time. Their simulated step times can differ by a few per cent.
std::vector<Partition> equal_partitions(const PartitionProblem& problem,
                                        const PartitionResult& best, int limit);

/// As equal as can be by number of layers: the customary default.
Partition uniform_partition(int layers, int stages);

}  // namespace thinwire::pipeline
