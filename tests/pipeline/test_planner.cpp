#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "sample_profile.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/greedy.hpp"
#include "thinwire/pipeline/planner.hpp"
#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline {
namespace {

using testing::HasSubstr;

std::string error_of(const Profile& profile, const PlanRequest& request) {
  try {
    make_plan(profile, request);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

/// The shortest step of every schedule and every size, each simulated.
double exhaustive(const Profile& profile, const PlanRequest& request) {
  double best = std::numeric_limits<double>::infinity();
  for (int size = 1; size <= request.batch; ++size) {
    if (request.batch % size != 0) continue;
    for (const GeneratorInfo& info : generators()) {
      for (int v = 1; v <= request.max_chunks; ++v) {
        const int m = request.batch / size;
        if (!can_generate(info.name, request.ranks, m, v)) continue;
        if (static_cast<int>(profile.layers.size()) < request.ranks * v) continue;
        const Schedule schedule = generate(info.name, request.ranks, m, v);
        FitRequest fitting;
        fitting.samples = size;
        try {
          const Fit found = fit(profile, schedule, fitting);
          best = std::min(best, found.timeline.step_time);
          const Schedule list = greedy(schedule.placement, m, found.costs);
          best = std::min(best, simulate(list, found.costs).step_time);
        } catch (const InvalidArgument&) {
          continue;  // over a cap
        }
      }
    }
  }
  return best;
}

TEST(Planner, ChoiceOfNumberAndSize_IsAsGoodAsExhaustiveSimulation) {
  std::mt19937 random{5};
  int possible = 0;
  for (int i = 0; i < 200; ++i) {
    PlanRequest request;
    request.ranks = 2 + static_cast<int>(random() % 3);
    request.batch = 4 << (random() % 3);
    request.max_chunks = 2;
    const int layers = 2 * request.ranks + static_cast<int>(random() % 6);
    const Profile profile = random_profile(random, layers, request.ranks);
    const double best = exhaustive(profile, request);
    if (best == std::numeric_limits<double>::infinity()) {
      EXPECT_THAT(error_of(profile, request), HasSubstr("no schedule and split fits"));
      continue;
    }
    ++possible;
    const Plan plan = make_plan(profile, request).best;
    ASSERT_LE(plan.step_time, 1.02 * best) << "profile " << i;
    const Costs costs = stage_costs(profile, plan.bounds, plan.schedule.placement,
                                    plan.microbatch_size, plan.recompute);
    ASSERT_TRUE(validate(plan.schedule, {}, &costs).valid());
    const Timeline timeline = simulate(plan.schedule, costs);
    ASSERT_EQ(timeline.step_time, plan.step_time);
    ASSERT_TRUE(fits(timeline, costs));
  }
  EXPECT_GE(possible, 150);
}

TEST(Planner, Table_ShowsBestFirst) {
  PlanRequest request;
  request.ranks = 4;
  request.batch = 16;
  const PlanReport report = make_plan(sample_profile(14), request);
  EXPECT_EQ(report.candidates.front().step_time, report.best.step_time);
  const std::string table = to_table(report);
  EXPECT_THAT(table, HasSubstr("schedule"));
  EXPECT_THAT(table, HasSubstr("were not simulated"));
  double last = 0;
  for (const PlanCandidate& candidate : report.candidates) {
    if (!candidate.refused.empty()) continue;
    EXPECT_GE(candidate.step_time, last);
    last = candidate.step_time;
  }
}

TEST(Planner, RecomputeWhereNeeded_FitsWhatOtherwiseDoesNot) {
  Profile profile = sample_profile(6);
  PlanRequest request;
  request.ranks = 2;
  request.batch = 16;
  request.schedules = {"gpipe"};
  request.microbatch_sizes = {4};
  profile.ranks = {{1, 420e6}, {1, 420e6}};
  EXPECT_THAT(error_of(profile, request), HasSubstr("smallest cap 420000000 bytes"));
  request.recompute = Recompute::where_needed;
  const Plan plan = make_plan(profile, request).best;
  EXPECT_TRUE(plan.recompute);
  EXPECT_LE(plan.peak_bytes, 420e6);
  profile.ranks.clear();
  EXPECT_FALSE(make_plan(profile, request).best.recompute);
}

TEST(Planner, SlowRank_GetsFewerLayers) {
  Profile profile = sample_profile(14);
  profile.ranks = {{1, 0}, {1, 0}, {0.5, 0}, {1, 0}};
  PlanRequest request;
  request.ranks = 4;
  request.batch = 16;
  request.schedules = {"1f1b"};
  const Partition bounds = make_plan(profile, request).best.bounds;
  EXPECT_LT(bounds[3] - bounds[2], bounds[2] - bounds[1]);
}

TEST(Planner, EqualSplits_StayWhereTheLayersAre) {
  Profile profile = sample_profile(2);
  profile.layers[1].optimizer_seconds = 0;  // else the last rank to end should have few layers
  for (LayerProfile& layer : profile.layers) layer = profile.layers[1];
  profile.layers.push_back(profile.layers[0]);  // five equal layers on two ranks: 2 + 3 or 3 + 2
  FitRequest request;
  const Schedule schedule = gpipe(2, 4);
  for (const Partition& current : {Partition{0, 2, 5}, Partition{0, 3, 5}}) {
    request.current = current;
    EXPECT_EQ(fit(profile, schedule, request).bounds, current);
  }
  EXPECT_EQ(bytes_moved(profile, {0, 1}, {0, 2, 5}, {0, 3, 5}), 4e7);
}

TEST(Planner, BuffersOverTheCap_LeadToAnotherSplit) {
  Profile profile = sample_profile(2);
  for (LayerProfile& layer : profile.layers) {
    layer = profile.layers[1];
    layer.parameter_bytes = layer.optimizer_bytes = layer.weight_activation_bytes = 0;
    layer.activation_bytes = layer.output_bytes = 1;
  }
  profile.layers.push_back(profile.layers[0]);
  profile.ranks = {{1.5, 0}, {1, 0}};  // three of five equal layers belong on the first rank
  profile.link = {2e-3, 0};  // slower than F, quicker than a micro-batch: outputs queue up
  FitRequest request;
  EXPECT_EQ(fit(profile, gpipe(2, 4), request).bounds, (Partition{0, 3, 5}));
  profile.ranks[0].memory_cap = 12;  // holds 3 layers of 4 micro-batches, but no output beside
  EXPECT_EQ(fit(profile, gpipe(2, 4), request).bounds, (Partition{0, 2, 5}));
}

TEST(Planner, BadRequest_NamesRuleAndValue) {
  const Profile profile = sample_profile(4);
  PlanRequest request;
  request.ranks = 7;
  EXPECT_THAT(error_of(profile, request), HasSubstr("7 ranks need at least 7 layers"));
  request.ranks = 0;
  EXPECT_THAT(error_of(profile, request), HasSubstr("0 ranks"));
  request.ranks = 2;
  request.batch = 8;
  request.microbatch_sizes = {3};
  EXPECT_THAT(error_of(profile, request), HasSubstr("micro-batches of 3 samples do not divide"));
  request.microbatch_sizes.clear();
  request.schedules = {"fastest"};
  EXPECT_THAT(error_of(profile, request), HasSubstr("unknown schedule 'fastest'"));
}

TEST(Plan, Json_RoundTrips) {
  PlanRequest request;
  request.ranks = 2;
  request.batch = 4;
  const Plan plan = make_plan(sample_profile(4), request).best;
  EXPECT_EQ(plan_from_json(to_json(plan)), plan);
  std::string text = to_json(plan);
  text.replace(text.find("\"version\": 1"), 12, "\"version\": 9");
  EXPECT_THROW(plan_from_json(text), FormatError);
}

TEST(Plan, BoundsThatDoNotRise_AreRefused) {
  Plan plan;
  plan.schedule = gpipe(2, 2);
  plan.bounds = {0, 3, 3};
  EXPECT_THROW(plan_from_json(to_json(plan)), FormatError);
}

}  // namespace
}  // namespace thinwire::pipeline
