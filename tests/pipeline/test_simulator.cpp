#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/simulator.hpp"

namespace thinwire::pipeline {
namespace {

constexpr int max_p = 16;
constexpr int max_m = 64;

/// A stage's F, I and W. Multiples of 12, so that a chunk of 1/v of a stage is exact for v <= 4.
struct Unit {
  double f, i, w;
  double b() const { return i + w; }
};
constexpr Unit units[] = {{12, 12, 12}, {24, 24, 12}, {12, 36, 12}, {36, 24, 24}, {12, 12, 24}};

Timeline run(const Schedule& schedule, const Unit& unit) {
  const double v = static_cast<double>(schedule.stages()) / schedule.ranks();
  return simulate(schedule, uniform_costs(schedule.stages(), unit.f / v, unit.i / v, unit.w / v));
}

/// Compares makespan and the peak of every rank, in full-stage micro-batches.
template <typename Peak>
void expect_closed_form(const Schedule& schedule, const Unit& unit, double makespan, Peak peak) {
  const Timeline timeline = run(schedule, unit);
  const int v = schedule.stages() / schedule.ranks();
  ASSERT_EQ(timeline.step_time, makespan)
      << schedule.name << " p=" << schedule.ranks() << " m=" << schedule.microbatches << " v=" << v
      << " F=" << unit.f << " I=" << unit.i << " W=" << unit.w;
  for (int r = 0; r < schedule.ranks(); ++r) {
    ASSERT_EQ(timeline.ranks[static_cast<std::size_t>(r)].peak_activation_bytes, peak(r) * v)
        << schedule.name << " p=" << schedule.ranks() << " m=" << schedule.microbatches
        << " v=" << v << " rank " << r;
  }
}

template <typename Body>
void for_all_sizes(Body body) {
  for (int p = 1; p <= max_p; ++p) {
    for (int m = 1; m <= max_m; ++m) {
      body(p, m);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(ClosedForm, Gpipe_HoldsAlways) {
  for_all_sizes([](int p, int m) {
    const Unit& unit = units[(p + m) % 5];
    expect_closed_form(gpipe(p, m), unit, (m + p - 1) * (unit.f + unit.b()),
                       [&](int) { return m; });
  });
}

TEST(ClosedForm, OneFOneB_HoldsAlways) {
  for_all_sizes([](int p, int m) {
    const Unit& unit = units[(p + m) % 5];
    expect_closed_form(one_f_one_b(p, m), unit, (m + p - 1) * (unit.f + unit.b()),
                       [&](int r) { return std::min(m, p - r); });
  });
}

TEST(ClosedForm, Interleaved_HoldsAlways) {
  for_all_sizes([](int p, int m) {
    for (int v = 2; v <= 4; ++v) {
      const Unit& unit = units[(p + m + v) % 5];
      const double fb = unit.f + unit.b();
      const double makespan = m >= p ? fb * m + fb * (p - 1) / v : fb * p + fb * (m - 1) / v;
      const int groups = std::max(1, m / p);
      const int g0 = (m + groups - 1) / groups;
      expect_closed_form(interleaved(p, m, v), unit, makespan, [&](int r) {
        return std::min(m * v, (v - 1) * g0 + 2 * (p - 1 - r) + 1) / static_cast<double>(v);
      });
      if (testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(ClosedForm, Zb1p_HoldsWhileWIsAtMostFAndI) {
  for (const Unit& unit : units) {
    if (unit.w > std::min(unit.f, unit.i)) continue;
    for_all_sizes([&](int p, int m) {
      const double makespan = m >= p
                                  ? m * (unit.f + unit.b()) + (p - 1) * (unit.f + unit.i - unit.w)
                                  : (m + p - 1) * (unit.f + unit.i) + unit.w;
      expect_closed_form(zb1p(p, m), unit, makespan, [&](int) { return std::min(p, m); });
    });
  }
}

TEST(ClosedForm, Zbv_HoldsForEqualUnitsAndEnoughMicrobatches) {
  for_all_sizes([](int p, int m) {
    const Timeline timeline = run(zbv(p, m), {12, 12, 12});
    if (m >= 3 * p / 2) {
      ASSERT_EQ(timeline.step_time, 12 * (3 * m + (p - 1) / 2.0)) << "p=" << p << " m=" << m;
    }
    if (m >= 2 * p - 1) {
      for (const RankTimeline& rank : timeline.ranks) {
        ASSERT_EQ(rank.peak_activation_bytes, 2 * p) << "p=" << p << " m=" << m;
      }
    }
  });
}

TEST(ClosedForm, DualPipeV_HoldsForEqualUnits) {
  for_all_sizes([](int p, int m) {
    if (!can_generate("dualpipev", p, m, 2)) return;
    expect_closed_form(dualpipev(p, m), {12, 12, 12}, 12 * (3 * m + (p - 1) / 2.0),
                       [&](int) { return p + 0.5; });
  });
}

TEST(Memory, Zb1pLastRank_FollowsWhatWHolds) {
  const double expected[][2] = {{0, 1.0}, {0.7, 5.9}, {1, 8}, {1.3, 10.4}};
  for (const auto& [weight_activation, peak] : expected) {
    Costs costs = uniform_costs(8, 1, 1, 1);
    for (StageCost& stage : costs.stages) stage.weight_activation = weight_activation;
    EXPECT_NEAR(simulate(zb1p(8, 32), costs).ranks[7].peak_activation_bytes, peak, 1e-12);
  }
}

TEST(Memory, RecomputeTransient_CountsWhileBackwardRuns) {
  Costs costs = uniform_costs(1, 1, 1, 1);
  costs.stages[0].activation = 2;
  costs.stages[0].transient = 10;
  costs.stages[0].fixed = 100;
  EXPECT_EQ(simulate(gpipe(1, 3), costs).ranks[0].peak_bytes, 100 + 3 * 2 + 10);
}

TEST(Memory, BuffersInFlight_AreCounted) {
  Costs costs = uniform_costs(2, 1, 1, 1);
  costs.stages[0].send_forward = 10;  // both outputs wait for the slow lane
  costs.stages[0].output = costs.stages[1].input = 5;
  const Timeline timeline = simulate(gpipe(2, 2), costs);
  EXPECT_EQ(timeline.ranks[0].peak_bytes, 2 + 2 * 5);
  EXPECT_EQ(timeline.ranks[1].peak_bytes, 1 + 5);  // what F0 holds while micro-batch 1 comes in
}

TEST(Simulator, LaneCarriesOneMessageAtATime) {
  Costs costs = uniform_costs(2, 1, 1, 1);
  costs.stages[0].send_forward = 10;
  const Timeline timeline = simulate(gpipe(2, 2), costs);
  // F0 at 1, lane until 11 and 21, 1F1 until 22, two backwards until 26, 0B1 until 28.
  EXPECT_EQ(timeline.step_time, 28);
  EXPECT_EQ(timeline.ranks[1].wait(Cause::warm_up), 11);
  EXPECT_EQ(timeline.ranks[1].wait(Cause::transfer), 9);
}

TEST(Simulator, ReductionAndOptimizer_EndTheStep) {
  Costs costs = uniform_costs(2, 1, 1, 1);
  for (StageCost& stage : costs.stages) {
    stage.reduce = 4;
    stage.optimizer = 3;
  }
  const Timeline timeline = simulate(lower(one_f_one_b(2, 1)), costs);
  EXPECT_EQ(timeline.ranks[1].optimizer.start, 4 + 4);  // its backward ends at 4
  EXPECT_EQ(timeline.ranks[1].wait(Cause::transfer), 4);
  EXPECT_EQ(timeline.step_time, 6 + 4 + 3);
}

TEST(Simulator, PrefetchDepth_HoldsTheLaneBack) {
  Costs costs = uniform_costs(2, 1, 5, 5);
  costs.stages[0].send_forward = 3;
  Execution shallow;
  shallow.prefetch = 1;
  const Timeline deep = simulate(gpipe(2, 4), costs);
  const Timeline held = simulate(gpipe(2, 4), costs, shallow);
  EXPECT_EQ(held.step_time - deep.step_time, 3);  // each of the last three waits for an F of 1
}

TEST(Simulator, LoweringAScheduleWithoutReductionCost_ChangesNoTime) {
  for (const GeneratorInfo& info : generators()) {
    const Schedule schedule = generate(info.name, 4, 9);
    Costs costs = uniform_costs(schedule.stages(), 3, 2, 4);
    for (StageCost& stage : costs.stages) stage.send_forward = stage.send_backward = 0.5;
    EXPECT_EQ(simulate(schedule, costs).step_time, simulate(lower(schedule), costs).step_time)
        << info.name;
  }
}

TEST(Simulator, BusyAndWaits_AddUpToTheStep) {
  for (const GeneratorInfo& info : generators()) {
    const Schedule schedule = lower(generate(info.name, 4, 10));
    Costs costs = uniform_costs(schedule.stages(), 1, 1, 1);
    for (std::size_t s = 0; s < costs.stages.size(); ++s) {
      StageCost& stage = costs.stages[s];
      stage.forward = 1 + 0.3 * static_cast<double>(s % 3);
      stage.send_forward = 0.4;
      stage.send_backward = 0.7;
      stage.reduce = 0.9;
      stage.optimizer = 0.2;
    }
    const Timeline timeline = simulate(schedule, costs);
    for (const RankTimeline& rank : timeline.ranks) {
      double sum = rank.busy;
      double listed = 0;
      for (double wait : rank.waits) {
        EXPECT_GE(wait, 0);
        sum += wait;
      }
      for (const WaitSpan& span : rank.idle) listed += span.end - span.start;
      EXPECT_NEAR(sum, timeline.step_time, 1e-9) << info.name;
      EXPECT_NEAR(listed, timeline.step_time - rank.busy, 1e-9) << info.name;
    }
  }
}

TEST(Simulator, UnequalRanks_ShowAsImbalance) {
  Costs costs = uniform_costs(4, 1, 1, 1);
  EXPECT_EQ(simulate(one_f_one_b(4, 16), costs).ranks[0].wait(Cause::imbalance), 0);
  costs.stages[2].forward = 2;
  const Timeline timeline = simulate(one_f_one_b(4, 16), costs);
  EXPECT_GT(timeline.ranks[0].wait(Cause::imbalance), 8);
  EXPECT_EQ(timeline.ranks[2].wait(Cause::imbalance), 0);
}

TEST(Simulator, BadCosts_AreRefused) {
  Costs costs = uniform_costs(2, 1, 1, 1);
  costs.stages[1].forward = std::nan("");
  EXPECT_THROW(simulate(gpipe(2, 2), costs), InvalidArgument);
  costs.stages[1].forward = -1;
  EXPECT_THROW(simulate(gpipe(2, 2), costs), InvalidArgument);
  costs.stages[1].forward = std::numeric_limits<double>::infinity();
  EXPECT_THROW(simulate(gpipe(2, 2), costs), InvalidArgument);
  EXPECT_THROW(simulate(gpipe(3, 2), uniform_costs(2, 1, 1, 1)), InvalidArgument);
}

TEST(Simulator, DeadlockedSchedule_IsRefused) {
  EXPECT_THROW(simulate(from_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n"), uniform_costs(2, 1, 1, 1)),
               InvalidArgument);
}

}  // namespace
}  // namespace thinwire::pipeline
