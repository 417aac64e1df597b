// Prints how long one exact partition takes: 200 layers of random cost on 64 ranks of random speed
// with memory caps, and a V of 96 layers on 12 ranks. Usage: bench_partition
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "thinwire/pipeline/partition.hpp"
#include "thinwire/pipeline/schedule.hpp"

using namespace thinwire::pipeline;

namespace {

PartitionProblem make_problem(const std::vector<int>& placement, int layers) {
  std::mt19937 random{1};
  std::uniform_real_distribution<double> cost{0.5, 1.5};
  PartitionProblem problem;
  problem.placement = placement;
  for (int l = 0; l < layers; ++l) problem.seconds.push_back(cost(random));
  for (int r = 0; r < problem.ranks(); ++r) problem.speeds.push_back(cost(random));
  problem.bytes.assign(placement.size(), problem.seconds);
  problem.caps.assign(problem.speeds.size(), 4.0 * layers / problem.ranks());
  return problem;
}

void measure(const char* name, const PartitionProblem& problem, int repeats) {
  std::vector<double> milliseconds;
  PartitionResult result;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    result = partition(problem);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    milliseconds.push_back(took.count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  fmt::print(
      "{:<28} {:>4} layers {:>3} ranks  median {:.3f} ms, fastest {:.3f} ms, bottleneck {:.4f}\n",
      name, problem.layers(), problem.ranks(), milliseconds[milliseconds.size() / 2],
      milliseconds.front(), result.bottleneck);
}

}  // namespace

int main() {
  measure("one stage a rank, exact", make_problem(loop_placement(64, 1), 200), 101);
  measure("V, exact", make_problem(v_placement(12), 96), 5);
}
