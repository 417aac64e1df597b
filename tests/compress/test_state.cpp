#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "plans.hpp"
#include "thinwire/compress/state.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

using test::contiguous_spans;
using test::simple_plan;
using test::with_ranks;
using testing::ElementsAre;

PlanSettings committing(Commit commit, int ranks = 1) {
  PlanSettings settings = with_ranks(ranks);
  settings.commit = commit;
  return settings;
}

std::shared_ptr<TrackingMemory> tracking() {
  return std::make_shared<TrackingMemory>(std::make_shared<HostMemory>());
}

TEST(State, New_IsZeroAndAsLargeAsThePlanSays) {
  for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
    const Plan plan{{parse_codec("sign")}, contiguous_spans({1000, 30}), committing(commit, 2)};
    const auto memory = tracking();
    const State state{plan, 1, memory};
    EXPECT_EQ(memory->total().current, plan.state_bytes(1));
    for (const Residual& residual : state.export_worker()) {
      EXPECT_THAT(residual.values, testing::Each(0.0f));
    }
    EXPECT_EQ(state.export_worker().size(), 2u);
  }
}

TEST(State, WithoutFeedback_TakesNoMemory) {
  const Plan plan = simple_plan("bf16", 1000, 2);
  const auto memory = tracking();
  const State state{plan, 0, memory};
  EXPECT_EQ(memory->total().current, 0u);
  EXPECT_TRUE(state.export_worker().empty());
  EXPECT_TRUE(state.export_server().empty());
}

TEST(State, OverTheLimit_ThrowsAndGivesBack) {
  const Plan plan = simple_plan("sign", 1 << 20);
  const auto memory = tracking();
  EXPECT_THROW((State{plan, 0, std::make_shared<LimitMemory>(memory, 1 << 22)}), OutOfMemory);
  EXPECT_EQ(memory->total().current, 0u);
}

TEST(State, DoubleBuffered_CommitAndDiscard_ChooseTheVersion) {
  const Plan plan{
      {parse_codec("sign")}, contiguous_spans({1}), committing(Commit::double_buffered)};
  State state{plan, 0, tracking()};
  const auto write = [&](float value) {
    state.worker_next()[0] = value;
    state.server_next()[0] = -value;
    state.mark_worker_written();
    state.mark_server_written();
  };
  const auto expect = [&](float value) {
    EXPECT_EQ(state.worker_committed()[0], value);
    EXPECT_EQ(state.server_committed()[0], -value);
  };
  write(1.0f);
  EXPECT_TRUE(state.in_step());
  expect(0.0f);
  state.commit();
  EXPECT_FALSE(state.in_step());
  expect(1.0f);
  write(2.0f);
  state.discard();
  expect(1.0f);
  state.commit();  // nothing was written since
  expect(1.0f);
}

TEST(State, InPlace_OnlyTheServerSide_IsDropped) {
  const Plan plan{{parse_codec("sign")}, contiguous_spans({1}), committing(Commit::in_place)};
  State state{plan, 0, tracking()};
  EXPECT_EQ(state.worker_next(), state.worker_committed());
  EXPECT_NE(state.server_next(), state.server_committed());
  state.worker_next()[0] = 1.0f;
  state.server_next()[0] = 1.0f;
  state.mark_worker_written();
  state.mark_server_written();
  state.discard();
  EXPECT_EQ(state.worker_committed()[0], 1.0f);
  EXPECT_EQ(state.server_committed()[0], 0.0f);
}

TEST(State, InTheMiddleOfAStep_ExportAndImport_AreRefused) {
  const Plan plan = simple_plan("sign", 1);
  State state{plan, 0, tracking()};
  state.mark_worker_written();
  EXPECT_THROW(state.export_worker(), InvalidArgument);
  EXPECT_THROW(state.export_server(), InvalidArgument);
  EXPECT_THROW(state.import_worker({}), InvalidArgument);
  EXPECT_THROW(state.import_server({}), InvalidArgument);
}

/// 0, 1, 2, ... for the elements of a parameter.
std::vector<float> counting(std::int64_t from, std::int64_t to) {
  std::vector<float> values;
  for (std::int64_t i = from; i < to; ++i) values.push_back(static_cast<float>(i));
  return values;
}

// Parameter "w" stands whole in one bucket, and cut in two with other neighbours in another.
TEST(State, ExportAndImport_BetweenPlans_FollowTheParameter) {
  const Plan whole = [] {
    auto spans = contiguous_spans({7, 3000});
    spans[1].parameter = "w";
    return Plan{{parse_codec("sign")}, spans, with_ranks(1)};
  }();
  const Plan cut = [] {
    auto spans = contiguous_spans({1100, 20, 1000});
    spans[0].parameter = "w";
    spans[0].parameter_offset = 2000 - 100;
    spans[2].parameter = "w";
    return Plan{{parse_codec("int8")}, spans, with_ranks(1, 3)};
  }();
  State from{whole, 0, tracking()};
  const std::vector<Residual> given{{"w", 0, counting(0, 3000)}};
  EXPECT_EQ(from.import_worker(given), 3000);
  EXPECT_EQ(from.import_server(given), 3000);

  State to{cut, 0, tracking()};
  EXPECT_EQ(to.import_worker(from.export_worker()), 2100);
  EXPECT_EQ(to.import_server(from.export_server()), 2100);
  const auto worker = to.export_worker();
  ASSERT_EQ(worker.size(), 3u);
  EXPECT_EQ(worker[0].offset, 1900);
  EXPECT_EQ(worker[0].values, counting(1900, 3000));
  EXPECT_THAT(worker[1].values, testing::Each(0.0f));
  EXPECT_EQ(worker[2].values, counting(0, 1000));
  for (const Residual& residual : to.export_server()) {
    if (residual.parameter != "w") continue;
    const auto size = static_cast<std::int64_t>(residual.values.size());
    EXPECT_EQ(residual.values, counting(residual.offset, residual.offset + size));
  }
}

// Every owner exports its part, the new owners take theirs: together each element once.
TEST(State, ServerResiduals_FromThreeOwnersToTwo_MoveOnce) {
  const Plan three = simple_plan("int4", 5000, 3);
  const Plan two = simple_plan("int4", 5000, 2);
  std::vector<Residual> exported;
  for (int shard = 0; shard < 3; ++shard) {
    State state{three, shard, tracking()};
    const std::vector<Residual> given{{"p0", 0, counting(0, 5000)}};
    state.import_server(given);
    for (Residual& residual : state.export_server()) exported.push_back(std::move(residual));
  }
  std::int64_t taken = 0;
  for (int shard = 0; shard < 2; ++shard) {
    State state{two, shard, tracking()};
    taken += state.import_server(exported);
    for (const Residual& residual : state.export_server()) {
      const auto size = static_cast<std::int64_t>(residual.values.size());
      EXPECT_EQ(residual.values, counting(residual.offset, residual.offset + size));
    }
  }
  EXPECT_EQ(taken, 5000);
}

TEST(State, Import_UnknownOrNotGiven_ChangesNothing) {
  const Plan plan = simple_plan("sign", 4);
  State state{plan, 0, tracking()};
  const std::vector<Residual> given{{"p0", 1, {5, 6}}, {"q", 0, {7}}, {"p0", 4, {8}}};
  EXPECT_EQ(state.import_worker(given), 2);
  EXPECT_THAT(state.export_worker()[0].values, ElementsAre(0, 5, 6, 0));
}

TEST(State, Import_NaNOrBadOffset_IsRefusedAndChangesNothing) {
  const Plan plan = simple_plan("sign", 4);
  State state{plan, 0, tracking()};
  const std::vector<Residual> bad{{"p0", 0, {1, 2}},
                                  {"p0", 2, {std::numeric_limits<float>::quiet_NaN()}}};
  EXPECT_THROW(state.import_worker(bad), InvalidArgument);
  const std::vector<Residual> negative{{"p0", -1, {1, 2}}};
  EXPECT_THROW(state.import_worker(negative), InvalidArgument);
  const std::vector<Residual> beyond{{"p0", std::numeric_limits<std::int64_t>::max(), {1, 2}}};
  EXPECT_THROW(state.import_server(beyond), InvalidArgument);
  EXPECT_THAT(state.export_worker()[0].values, testing::Each(0.0f));
}

TEST(State, ShardOutOfRange_IsRefused) {
  const Plan plan = simple_plan("sign", 4, 2);
  EXPECT_THROW((State{plan, 2, tracking()}), InvalidArgument);
}

}  // namespace
}  // namespace thinwire::compress
