#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/partition.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Written out again, without prefix sums.
double value_of(const PartitionProblem& problem, const Partition& bounds) {
  std::map<int, double> loads;
  std::map<int, double> held;
  std::map<std::pair<int, int>, double> lanes;
  double worst = 0;
  for (std::size_t s = 0; s < problem.placement.size(); ++s) {
    const int rank = problem.placement[s];
    for (int l = bounds[s]; l < bounds[s + 1]; ++l) {
      const auto layer = static_cast<std::size_t>(l);
      const double speed =
          problem.speeds.empty() ? 1 : problem.speeds[static_cast<std::size_t>(rank)];
      loads[rank] += problem.seconds[layer] / speed;
      if (!problem.bytes.empty()) held[rank] += problem.bytes[s][layer];
    }
    worst = std::max(worst, loads[rank]);
    if (!problem.caps.empty() && held[rank] > problem.caps[static_cast<std::size_t>(rank)]) {
      return infinity;
    }
    if (problem.transfer_seconds.empty() || s + 1 == problem.placement.size()) continue;
    const int next = problem.placement[s + 1];
    if (next == rank) continue;
    double& lane = lanes[{rank, next}];
    lane += problem.transfer_seconds[s][static_cast<std::size_t>(bounds[s + 1]) - 1];
    worst = std::max(worst, lane);
  }
  return worst;
}

/// Every way to cut.
double brute_force(const PartitionProblem& problem, Partition& bounds, std::size_t cut) {
  if (cut + 1 == bounds.size()) return value_of(problem, bounds);
  double best = infinity;
  const int last = problem.layers() - static_cast<int>(bounds.size() - 1 - cut);
  for (int end = bounds[cut - 1] + 1; end <= last; ++end) {
    bounds[cut] = end;
    best = std::min(best, brute_force(problem, bounds, cut + 1));
  }
  return best;
}
double brute_force(const PartitionProblem& problem) {
  Partition bounds(problem.placement.size() + 1, 0);
  bounds.back() = problem.layers();
  return brute_force(problem, bounds, 1);
}

class RandomProblem {
 public:
  explicit RandomProblem(unsigned seed) : random_{seed} {}
  int below(int limit) { return std::uniform_int_distribution<int>{0, limit - 1}(random_); }

  /// `tight`: caps around what an even split holds, so that some instances have no answer.
  PartitionProblem make(const std::vector<int>& placement, int layers) {
    PartitionProblem problem;
    problem.placement = placement;
    const bool whole = below(2) == 0;  // whole numbers make ties
    for (int l = 0; l < layers; ++l) problem.seconds.push_back(whole ? 1 + below(6) : cost(5));
    if (below(3) > 0) {
      for (int r = 0; r < problem.ranks(); ++r) problem.speeds.push_back(0.5 + cost(1.5));
    }
    if (below(2) == 0) add_memory(problem);
    if (below(2) == 0) {
      for (int s = 0; s + 1 < problem.stages(); ++s) {
        auto& row = problem.transfer_seconds.emplace_back();
        for (int l = 0; l < layers; ++l) row.push_back(cost(below(3) == 0 ? 20 : 2));
      }
    }
    return problem;
  }

 private:
  double cost(double limit) { return std::uniform_real_distribution<double>{0, limit}(random_); }
  void add_memory(PartitionProblem& problem) {
    double total = 0;
    for (int s = 0; s < problem.stages(); ++s) {
      auto& row = problem.bytes.emplace_back();
      for (int l = 0; l < problem.layers(); ++l) row.push_back(1 + cost(4) * (1 + below(3)));
      total += std::accumulate(row.begin(), row.end(), 0.0);
    }
    const double even = total / problem.stages() / problem.ranks();
    for (int r = 0; r < problem.ranks(); ++r) problem.caps.push_back(even * (0.8 + cost(1.5)));
  }

  std::mt19937 random_;
};

void expect_as_brute_force(const PartitionProblem& problem, int& infeasible) {
  const double expected = brute_force(problem);
  if (expected == infinity) {
    ++infeasible;
    EXPECT_THROW(partition(problem), InvalidArgument);
    return;
  }
  const PartitionResult result = partition(problem);
  ASSERT_TRUE(result.optimal);
  ASSERT_NEAR(result.bottleneck, expected, 1e-9 * expected);
  ASSERT_NEAR(value_of(problem, result.bounds), expected, 1e-9 * expected);
  for (const Partition& equal : equal_partitions(problem, result, 8)) {
    ASSERT_NEAR(value_of(problem, equal), expected, 1e-9 * expected);
  }
}

TEST(Partition, OneStageARank_EqualsBruteForce) {
  RandomProblem random{1};
  int infeasible = 0;
  for (int i = 0; i < 5000; ++i) {
    const int p = 1 + random.below(6);
    expect_as_brute_force(random.make(loop_placement(p, 1), p + random.below(13 - p)), infeasible);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(infeasible, 100);  // the refusal is tested too
  EXPECT_LT(infeasible, 2000);
}

TEST(Partition, SeveralStagesARank_EqualsBruteForce) {
  RandomProblem random{2};
  int infeasible = 0;
  for (int i = 0; i < 2000; ++i) {
    const bool v_shape = random.below(2) == 0;
    const int p = 1 + random.below(v_shape ? 5 : 4);
    const int v = v_shape ? 2 : 2 + random.below(2);
    const int layers = p * v + random.below(15 - p * v);
    expect_as_brute_force(random.make(v_shape ? v_placement(p) : loop_placement(p, v), layers),
                          infeasible);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(infeasible, 50);
  EXPECT_LT(infeasible, 1000);
}

/// DeepSpeed's rule: minimise max - min (partition_balanced, by dynamic programming).
double deepspeed(const std::vector<double>& seconds, int p) {
  struct Spread {
    double high, low;
  };
  const std::size_t n = seconds.size();
  const auto sum = [&](std::size_t from, std::size_t to) {
    return std::accumulate(seconds.begin() + static_cast<std::ptrdiff_t>(from),
                           seconds.begin() + static_cast<std::ptrdiff_t>(to), 0.0);
  };
  std::vector<Spread> best(n + 1);
  for (std::size_t j = 1; j <= n; ++j) best[j] = {sum(0, j), sum(0, j)};
  for (int k = 2; k <= p; ++k) {
    std::vector<Spread> next(n + 1, {infinity, 0});
    for (std::size_t j = static_cast<std::size_t>(k); j <= n; ++j) {
      for (std::size_t i = static_cast<std::size_t>(k) - 1; i < j; ++i) {
        const Spread spread{std::max(best[i].high, sum(i, j)), std::min(best[i].low, sum(i, j))};
        if (spread.high - spread.low <= next[j].high - next[j].low) next[j] = spread;
      }
    }
    best = next;
  }
  return best[n].high;
}

/// torchgpipe's rule: shift boundaries from even towards balance and stop once the largest stage is
/// at most the smallest plus the largest layer (blockpartition.solve).
double torchgpipe(const std::vector<double>& seconds, int p) {
  const int n = static_cast<int>(seconds.size());
  Partition bounds = uniform_partition(n, p);
  const double largest_layer = *std::max_element(seconds.begin(), seconds.end());
  const auto size = [&](int s) {
    double sum = 0;
    for (int l = bounds[static_cast<std::size_t>(s)]; l < bounds[static_cast<std::size_t>(s) + 1];
         ++l) {
      sum += seconds[static_cast<std::size_t>(l)];
    }
    return sum;
  };
  for (int round = 0; round < 1000; ++round) {
    int high = 0;
    int low = 0;
    for (int s = 1; s < p; ++s) {
      if (size(s) > size(high)) high = s;
      if (size(s) < size(low)) low = s;
    }
    if (size(high) <= size(low) + largest_layer) break;
    // One layer travels from the largest stage towards the smallest.
    if (high < low) {
      for (int s = high; s < low; ++s) --bounds[static_cast<std::size_t>(s) + 1];
    } else {
      for (int s = low; s < high; ++s) ++bounds[static_cast<std::size_t>(s) + 1];
    }
  }
  double worst = 0;
  for (int s = 0; s < p; ++s) worst = std::max(worst, size(s));
  return worst;
}

TEST(Partition, DeepSpeedsExample_IsBeaten) {
  PartitionProblem problem;
  problem.seconds = {1, 4, 2, 2};
  problem.placement = loop_placement(3, 1);
  EXPECT_EQ(deepspeed(problem.seconds, 3), 5);
  EXPECT_EQ(partition(problem).bottleneck, 4);
}

TEST(Partition, NeverAboveDeepSpeedOrTorchgpipe) {
  std::mt19937 random{3};
  int better_than_deepspeed = 0;
  int better_than_torchgpipe = 0;
  for (int i = 0; i < 2000; ++i) {
    PartitionProblem problem;
    const int p = 2 + static_cast<int>(random() % 7);
    const int layers = 2 * p + static_cast<int>(random() % 24);
    for (int l = 0; l < layers; ++l) {
      problem.seconds.push_back(1 + static_cast<double>(random() % (l % 5 == 0 ? 40 : 8)));
    }
    problem.placement = loop_placement(p, 1);
    const double mine = partition(problem).bottleneck;
    const double deep = deepspeed(problem.seconds, p);
    const double gpipe = torchgpipe(problem.seconds, p);
    ASSERT_LE(mine, deep * (1 + 1e-12));
    ASSERT_LE(mine, gpipe * (1 + 1e-12));
    better_than_deepspeed += mine < deep * (1 - 1e-12) ? 1 : 0;
    better_than_torchgpipe += mine < gpipe * (1 - 1e-12) ? 1 : 0;
  }
  EXPECT_GT(better_than_deepspeed, 0);
  EXPECT_GT(better_than_torchgpipe, 0);
}

TEST(Partition, LargeProblems_AreNoWorseThanUniform) {
  RandomProblem random{4};
  for (int i = 0; i < 10; ++i) {
    for (const auto& placement : {loop_placement(8, 4), v_placement(12), loop_placement(64, 1)}) {
      PartitionProblem problem = random.make(placement, 96);
      problem.bytes.clear();
      problem.caps.clear();
      const PartitionResult result = partition(problem);
      EXPECT_NEAR(value_of(problem, result.bounds), result.bottleneck, 1e-9 * result.bottleneck);
      EXPECT_LE(result.bottleneck,
                value_of(problem, uniform_partition(96, problem.stages())) * (1 + 1e-12));
    }
  }
}

TEST(Partition, Impossible_NamesTheRule) {
  PartitionProblem problem;
  problem.seconds = {1, 1, 1};
  problem.placement = loop_placement(4, 1);
  EXPECT_THROW(partition(problem), InvalidArgument);  // more ranks than layers
  problem.placement = loop_placement(2, 1);
  problem.seconds[1] = std::nan("");
  EXPECT_THROW(partition(problem), InvalidArgument);
  problem.seconds[1] = -1;
  EXPECT_THROW(partition(problem), InvalidArgument);
  problem.seconds[1] = 1;
  problem.speeds = {1, 0};
  EXPECT_THROW(partition(problem), InvalidArgument);
  problem.speeds.clear();
  problem.bytes = {{2, 2, 2}, {2, 2, 2}};
  problem.caps = {2, 2};
  try {
    partition(problem);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string{error.what()}.find("no split of 3 layers into 2 stages"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace thinwire::pipeline
