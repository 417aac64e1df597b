#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline {
namespace {

using testing::HasSubstr;

std::size_t find(const std::vector<Action>& list, std::string_view cell) {
  const auto at = std::find(list.begin(), list.end(), parse_cell(cell)[0]);
  EXPECT_NE(at, list.end()) << cell;
  return static_cast<std::size_t>(at - list.begin());
}

/// The defect of a schedule that is expected to have one.
Defect defect_of(const Schedule& schedule, const Execution& execution = {},
                 const Costs* costs = nullptr) {
  const Verdict verdict = validate(schedule, execution, costs);
  if (verdict.valid()) return {Rule::well_formed, -2, -2, "valid", {}};
  return *verdict.defect;
}

TEST(Validator, BackwardTwiceOfOneAndNeverOfAnother_IsRefused) {
  Schedule schedule = one_f_one_b(2, 2);  // passes a validator that counts
  auto& list = schedule.actions[1];
  list[find(list, "1B1")].microbatch = 0;
  const Defect defect = defect_of(schedule);
  EXPECT_EQ(defect.rule, Rule::completeness);
  EXPECT_EQ(defect.rank, 1);
  EXPECT_EQ(defect.position, 3);
  EXPECT_THAT(defect.message, HasSubstr("rank 1, position 3, 1B0: stands at position 1 already"));
}

TEST(Validator, MissingAction_IsNamed) {
  Schedule schedule = zb1p(2, 2);
  schedule.actions[0].erase(schedule.actions[0].begin() + 3);
  EXPECT_THAT(defect_of(schedule).message, HasSubstr("0W0: missing from rank 0"));
}

TEST(Validator, BackwardBesideSplitBackward_IsRefused) {
  Schedule schedule = zb1p(2, 2);
  schedule.actions[0].push_back({Kind::backward, false, 0, 1});
  EXPECT_THAT(defect_of(schedule).message, HasSubstr("0I1: B does this already"));
}

TEST(Validator, WeightGradientsOutOfOrder_AreRefused) {
  Schedule schedule = zb1p(1, 2);
  auto& list = schedule.actions[0];
  std::swap(list[find(list, "0I0")], list[find(list, "0I1")]);  // fine: I may come in any order
  EXPECT_EQ(defect_of(schedule).rule, Rule::order);             // but W0 now stands before I0
  schedule = from_csv("0F0,0F1,0I0,0I1,0W1,0W0\n");
  EXPECT_THAT(defect_of(schedule).message,
              HasSubstr("rank 0, position 5, 0W0: after micro-batch 1"));
  EXPECT_TRUE(validate(from_csv("0F0,0F1,0I1,0I0,0W0,0W1\n")).valid());
}

TEST(Validator, CrossedReceives_AreRefused) {
  Schedule schedule = lower(gpipe(2, 2));
  auto& list = schedule.actions[1];
  std::swap(list[find(list, "1RECV_F0")], list[find(list, "1RECV_F1")]);
  const Defect defect = defect_of(schedule);
  EXPECT_EQ(defect.rule, Rule::transfer);
}

TEST(Validator, LaneWithAnotherOrderAtEachEnd_NamesBothEnds) {
  Schedule schedule = lower(gpipe(2, 2));
  auto& list = schedule.actions[0];  // F0 F1 S0 S1 at both ends, then the sends swapped
  list = from_csv("0F0,0F1,0SEND_F1,0SEND_F0,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n1F0,1F1\n")
             .actions[0];
  EXPECT_THAT(defect_of(schedule).message,
              HasSubstr("receive 0 of lane 0>1F would take 0SEND_F1 (rank 0, position 2)"));
}

TEST(Validator, ReductionBeforeTheLastGradient_IsRefused) {
  Schedule schedule = lower(one_f_one_b(2, 2));
  auto& list = schedule.actions[0];
  std::rotate(list.end() - 3, list.end() - 1, list.end());  // ... REDUCE_GRAD RECV_B1 B1
  EXPECT_THAT(defect_of(schedule).message, HasSubstr("0B1: after REDUCE_GRAD"));
  list.erase(list.begin() + static_cast<std::ptrdiff_t>(find(list, "0REDUCE_GRAD")));
  EXPECT_THAT(defect_of(schedule).message, HasSubstr("0REDUCE_GRAD: missing"));
}

TEST(Validator, ComputeOnAReshardedStage_IsRefused) {
  EXPECT_TRUE(validate(from_csv("0UNSHARD,0F0,0B0,0RESHARD\n")).valid());
  EXPECT_EQ(defect_of(from_csv("0UNSHARD,0F0,0RESHARD,0B0\n")).rule, Rule::sharding);
  EXPECT_EQ(defect_of(from_csv("0UNSHARD,0UNSHARD,0F0,0B0\n")).rule, Rule::sharding);
}

TEST(Validator, Deadlock_ShowsItsCycle) {
  // Rank 0 wants the gradient of micro-batch 0 before it sends micro-batch 1; rank 1 the reverse.
  const Schedule schedule = from_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n");
  const Defect defect = defect_of(schedule);
  EXPECT_EQ(defect.rule, Rule::deadlock);
  ASSERT_EQ(defect.cycle.size(), 6u);  // 0B0 0F1 0SEND_F1 1F1 1B0 1SEND_B0
  EXPECT_THAT(defect.message,
              HasSubstr("rank 0, position 2, 0F1 waits for rank 0, position 1, 0B0"));
}

TEST(Validator, OneLane_IsJudgedApart) {
  // Rank 0 posts the receive of B0 before the send of F1, which rank 1 wants first.
  Schedule schedule = lower(from_csv("0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n"));
  auto& list = schedule.actions[0];
  list = from_csv("0F0,0SEND_F0,0RECV_B0,0F1,0SEND_F1,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n1F0,1F1\n")
             .actions[0];
  const Verdict verdict = validate(schedule);
  EXPECT_TRUE(verdict.valid());
  ASSERT_TRUE(verdict.one_lane_defect.has_value());
  EXPECT_THAT(verdict.one_lane_defect->message, HasSubstr("1SEND_B0"));
  Execution one_lane;
  one_lane.one_lane = true;
  EXPECT_EQ(defect_of(schedule, one_lane).rule, Rule::deadlock);
}

/// Lowered by hand: each receive just before the compute that needs it, each send just after.
Schedule lowered_just_in_time(const Schedule& schedule) {
  Schedule result = schedule;
  for (auto& list : result.actions) list.clear();
  const int last = schedule.stages() - 1;
  for (std::size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    auto& out = result.actions[rank];
    for (const Action& a : schedule.actions[rank]) {
      const bool forward = a.kind == Kind::forward;
      const auto add = [&](Kind kind) { out.push_back({kind, false, a.stage, a.microbatch}); };
      if (forward && a.stage > 0) add(Kind::receive_forward);
      if (!forward && a.stage < last) add(Kind::receive_backward);
      out.push_back(a);
      if (forward && a.stage < last) add(Kind::send_forward);
      if (!forward && a.stage > 0) add(Kind::send_backward);
    }
  }
  return result;
}

TEST(Validator, OneStreamForAll_DeadlocksJustInTimeListsButNotLoweredOnes) {
  Execution blocking;
  blocking.host = Execution::Host::blocking;
  int deadlocks = 0;
  for (int p = 2; p <= 6; ++p) {
    for (int m = 1; m <= 10; ++m) {
      const Schedule schedule = one_f_one_b(p, m);
      EXPECT_TRUE(validate(lower(schedule), blocking).valid());
      EXPECT_TRUE(validate(lowered_just_in_time(schedule)).valid());
      deadlocks += validate(lowered_just_in_time(schedule), blocking).valid() ? 0 : 1;
    }
  }
  EXPECT_EQ(deadlocks, 45);  // all but m = 1
}

TEST(Validator, MemoryOverTheCap_NamesTheAction) {
  Costs costs = uniform_costs(2, 1, 1, 1);
  costs.caps = {2, 1};
  EXPECT_TRUE(validate(one_f_one_b(2, 4), {}, &costs).valid());
  costs.caps = {1, 1};
  const Defect defect = defect_of(one_f_one_b(2, 4), {}, &costs);
  EXPECT_EQ(defect.rule, Rule::memory);
  EXPECT_THAT(defect.message, HasSubstr("rank 0, position 1, 0F1: the rank holds 2 bytes"));
}

TEST(Validator, BadNumbers_AreRefused) {
  Schedule schedule = one_f_one_b(2, 2);
  schedule.actions[0][1].stage = 5;
  EXPECT_THAT(defect_of(schedule).message, HasSubstr("rank 0, position 1, 5F1: stage 5"));
  schedule = one_f_one_b(2, 2);
  schedule.placement[1] = 7;
  EXPECT_EQ(defect_of(schedule).rule, Rule::well_formed);
  EXPECT_THROW(require_valid(schedule), InvalidArgument);
}

}  // namespace
}  // namespace thinwire::pipeline
