#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {
namespace {

using testing::HasSubstr;

/// Text of the FormatError that `body` throws.
template <typename Body>
std::string format_error(Body body) {
  try {
    body();
  } catch (const FormatError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Cell, EveryKind_IsReadBack) {
  for (const char* cell : {"0F3", "12B0", "1I7", "3W63", "2SEND_F1", "2RECV_F1", "2SEND_B1",
                           "2RECV_B1", "4REDUCE_GRAD", "4UNSHARD", "4RESHARD"}) {
    const auto actions = parse_cell(cell);
    ASSERT_EQ(actions.size(), 1u) << cell;
    EXPECT_EQ(to_string(actions[0]), cell);
  }
}

TEST(Cell, Overlapped_JoinsItsParts) {
  const auto actions = parse_cell("(0F7;7B3)OVERLAP_F_B");
  ASSERT_EQ(actions.size(), 2u);
  EXPECT_EQ(actions[0], (Action{Kind::forward, true, 0, 7}));
  EXPECT_EQ(actions[1], (Action{Kind::backward, false, 7, 3}));
}

TEST(Cell, OldDialect_ReadsBAsInputGradient) {
  EXPECT_EQ(parse_cell("3B0", Dialect::torch_old)[0].kind, Kind::input_gradient);
  EXPECT_EQ(parse_cell("3BW0", Dialect::torch_old)[0].kind, Kind::backward);
  EXPECT_THAT(format_error([] { parse_cell("3BW0"); }), HasSubstr("unknown kind 'BW'"));
}

TEST(Cell, Broken_IsNamed) {
  for (const char* cell : {"F0", "0F", "0X1", "0F-1", "99999999999F0", "0REDUCE_GRAD1", "(0F1)",
                           "(0F1)OVERLAP_F_B", "(0F1;1SEND_F0)OVERLAP_F_B", "0F1x"}) {
    EXPECT_THAT(format_error([&] { parse_cell(cell); }), HasSubstr(cell));
  }
}

TEST(Text, EveryGenerator_RoundTrips) {
  for (const GeneratorInfo& info : generators()) {
    const Schedule schedule = generate(info.name, 3, 7);
    EXPECT_EQ(from_text(to_text(schedule)), schedule) << info.name;
    const Schedule lowered = lower(schedule);
    EXPECT_EQ(from_text(to_text(lowered)), lowered) << info.name;
  }
}

TEST(Text, BadFile_NamesLineAndReason) {
  const std::string good = to_text(one_f_one_b(2, 2));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return format_error([&] { from_text(text); });
  };
  EXPECT_THAT(with("thinwire-schedule 1", "thinwire-schedule 2"), HasSubstr("version 2"));
  EXPECT_THAT(with("thinwire-schedule", "something"), HasSubstr("not a schedule"));
  EXPECT_THAT(with("lanes 0>1F 1>0B", "lanes 0>1F"), HasSubstr("line 5"));
  EXPECT_THAT(with("rank 1:", "rank 2:"), HasSubstr("rank 2 stands where rank 1 belongs"));
  EXPECT_THAT(with("1F0", "1Q0"), HasSubstr("line 7"));
  EXPECT_THAT(with("1F0", "1F9"), HasSubstr("micro-batch 9 is not in [0, 2)"));
  EXPECT_THAT(with("microbatches 2", "microbatches 2000000000"), HasSubstr("8 actions in all"));
  EXPECT_THAT(with("placement 0 1", "placement 0 x"), HasSubstr("'x' is not a number"));
}

TEST(Csv, BothFlavours_RoundTrip) {
  for (const GeneratorInfo& info : generators()) {
    Schedule schedule = generate(info.name, 4, 8);
    schedule.name = "custom";
    EXPECT_EQ(from_csv(to_csv(schedule, Flavour::compute_only)), schedule) << info.name;
    const Schedule lowered = lower(schedule);
    EXPECT_EQ(from_csv(to_csv(lowered, Flavour::compute_comms)), lowered) << info.name;
    EXPECT_EQ(from_csv(to_csv(lowered, Flavour::compute_only)), schedule) << info.name;
  }
}

TEST(Csv, TorchsFile_IsReadWithIdleCellsAndCarriageReturns) {
  const Schedule schedule = from_csv("0F0,0F1,,,0B0,,0B1\r\n,1F0,1B0,1F1,1B1,,\r\n");
  Schedule expected = one_f_one_b(2, 2);
  expected.name = "custom";
  EXPECT_EQ(schedule, expected);
}

TEST(Csv, OldDialect_IsReadInBothFlavours) {
  const Schedule lowered =
      from_csv("0F0,0SEND_F0,0RECV_B0,0BW0\n1RECV_F0,1F0,1B0,1SEND_B0,1W0\n", Dialect::torch_old);
  EXPECT_EQ(to_text(strip(lowered)), to_text(from_csv("0F0,0B0\n1F0,1I0,1W0\n")));
}

TEST(Csv, BadFile_NamesRowAndCell) {
  EXPECT_THAT(format_error([] { from_csv("0F0,0B0\n1F0,1Z0\n"); }), HasSubstr("row 1, cell 1"));
  EXPECT_THAT(format_error([] { from_csv("0F0,0B0\n0F0,1B0\n"); }),
              HasSubstr("stage 0 is on rank 0"));
  EXPECT_THAT(format_error([] { from_csv("0F0,0B0\n2F0,2B0\n"); }),
              HasSubstr("stage 1 has no action"));
  EXPECT_THAT(format_error([] { from_csv(""); }), HasSubstr("at least one micro-batch"));
}

TEST(Csv, CommsOfAnUnloweredSchedule_IsRefused) {
  EXPECT_THROW(to_csv(one_f_one_b(2, 2), Flavour::compute_comms), InvalidArgument);
}

TEST(Lowering, SendAndReceive_FollowTheirComputeTogether) {
  EXPECT_EQ(to_csv(lower(one_f_one_b(2, 2)), Flavour::compute_comms),
            "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
            "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD\n");
}

TEST(Lowering, Twice_ChangesNothing) {
  for (const GeneratorInfo& info : generators()) {
    const Schedule lowered = lower(generate(info.name, 3, 6));
    EXPECT_EQ(lower(lowered), lowered) << info.name;
    EXPECT_EQ(strip(lowered), generate(info.name, 3, 6)) << info.name;
  }
}

TEST(Lowering, VPlacement_SendsNothingAtTheBottom) {
  const Schedule lowered = lower(zbv(2, 2));
  for (const Action& action : lowered.actions[1]) {
    EXPECT_FALSE(action.kind == Kind::send_forward && action.stage == 1);
  }
  EXPECT_EQ(lanes_of(lowered.placement).size(), 4u);  // both directions carry both kinds
}

TEST(Lowering, CyclicComputeOrder_NamesWhoWaits) {
  Schedule schedule = one_f_one_b(2, 1);
  std::swap(schedule.actions[0][0], schedule.actions[0][1]);
  try {
    lower(schedule);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 0, position 0, 0B0; rank 1, position 0, 1F0"));
  }
}

}  // namespace
}  // namespace thinwire::pipeline
