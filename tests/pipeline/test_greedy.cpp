#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/greedy.hpp"
#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline {
namespace {

/// Unequal stages, F, I and W of different lengths, transfers, and caps around what 1F1B holds.
struct Instance {
  std::vector<int> placement;
  int microbatches;
  Costs costs;
};

Instance random_instance(std::mt19937& random) {
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>{low, high}(random);
  };
  const int p = 2 + static_cast<int>(random() % 4);
  const int shape = static_cast<int>(random() % 3);
  Instance instance;
  instance.placement =
      shape == 0 ? loop_placement(p, 1) : (shape == 1 ? loop_placement(p, 2) : v_placement(p));
  instance.microbatches = p + static_cast<int>(random() % 12);
  const int stages = static_cast<int>(instance.placement.size());
  instance.costs = uniform_costs(stages, 0, 0, 0);
  const double link = random() % 2 == 0 ? 0 : uniform(0, 0.5);
  for (StageCost& stage : instance.costs.stages) {
    const double size = uniform(0.7, 1.3);
    stage.forward = size * uniform(0.8, 1.2);
    stage.input_gradient = size * uniform(0.8, 1.4);
    stage.weight_gradient = size * uniform(0.5, 1.1);
    stage.backward = stage.input_gradient + stage.weight_gradient;
    stage.send_forward = stage.send_backward = link;
    stage.activation = 1;
    stage.weight_activation = uniform(0.5, 1.1);
  }
  const double chunks = static_cast<double>(stages) / p;
  if (random() % 4 != 0) {
    instance.costs.caps.assign(static_cast<std::size_t>(p), chunks * p * uniform(1.0, 2.0));
  }
  return instance;
}

TEST(Greedy, NeverWorseThanFixedAndOftenBetter) {
  std::mt19937 random{11};
  int judged = 0;
  int better = 0;
  while (judged < 1000) {
    const Instance instance = random_instance(random);
    double fixed = 0;
    for (const Schedule& schedule : fixed_schedules(instance.placement, instance.microbatches)) {
      const Timeline timeline = simulate(schedule, instance.costs);
      if (!fits(timeline, instance.costs)) continue;
      fixed = fixed == 0 ? timeline.step_time : std::min(fixed, timeline.step_time);
    }
    if (fixed == 0) continue;
    const Schedule found = greedy(instance.placement, instance.microbatches, instance.costs);
    const Verdict verdict = validate(found, {}, &instance.costs);
    ASSERT_TRUE(verdict.valid()) << verdict.defect->message;
    const Timeline timeline = simulate(found, instance.costs);
    ASSERT_TRUE(fits(timeline, instance.costs));
    ASSERT_LE(timeline.step_time, fixed);
    ++judged;
    better += timeline.step_time < fixed * (1 - 1e-9) ? 1 : 0;
  }
  RecordProperty("better", better);
  EXPECT_GE(better, judged / 3);
}

TEST(Greedy, NothingFits_SaysHowMuchItNeeds) {
  Costs costs = uniform_costs(2, 1, 1, 1);
  for (StageCost& stage : costs.stages) stage.fixed = 10;
  costs.caps = {5, 5};
  try {
    greedy(loop_placement(2, 1), 4, costs);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string{error.what()}.find("needs 12 bytes"), std::string::npos) << error.what();
  }
}

TEST(Greedy, AnyPlacement_IsScheduled) {
  // Three stages on two ranks: no published schedule runs there.
  const Costs costs = uniform_costs(3, 1, 1, 1);
  EXPECT_TRUE(fixed_schedules({0, 1, 0}, 4).empty());
  EXPECT_TRUE(validate(greedy({0, 1, 0}, 4, costs)).valid());
}

}  // namespace
}  // namespace thinwire::pipeline
