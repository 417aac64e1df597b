#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "plans.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::contiguous_spans;
using test::simple_plan;
using test::TwoPhase;
using test::with_ranks;
using testing::ElementsAre;

/// Fields of a topk run that is the only one of its slot.
struct TopkSlot {
  std::vector<std::uint32_t> first;
  std::vector<std::uint16_t> local;
  std::vector<std::uint16_t> value;

  TopkSlot(std::span<const std::byte> slot, std::int64_t elements, std::int64_t capacity)
      : first(static_cast<std::size_t>((elements + 65535) / 65536 + 1)),
        local(static_cast<std::size_t>(capacity)),
        value(static_cast<std::size_t>(capacity)) {
    const std::byte* at = slot.data() + header_bytes;
    const auto take = [&](auto& part) {
      const std::size_t bytes = part.size() * sizeof(part[0]);
      std::memcpy(part.data(), at, bytes);
      at += (bytes + 15) / 16 * 16;
    };
    take(first);
    take(local);
    take(value);
  }
};

// 3 of 6: both 5s, and of the 3s the one with the lower index. bf16: -5 is 0xC0A0, 3 is 0x4040.
TEST(Topk, Encode_Ties_GoToTheLowerIndex) {
  const Plan plan = simple_plan("topk:0.5", 6);
  TwoPhase world{plan};
  world.encode(0, const_view_of(std::vector<float>{0, -5, 3, 5, 1, -3}));
  world.commit();
  const TopkSlot slot{world.sent(0, 0), 6, 3};
  EXPECT_THAT(slot.first, ElementsAre(0, 3));
  EXPECT_THAT(slot.local, ElementsAre(1, 2, 3));
  EXPECT_THAT(slot.value, ElementsAre(0xC0A0, 0x4040, 0x40A0));
  EXPECT_THAT(world.state(0).export_worker().at(0).values, ElementsAre(0, 0, 0, 0, 1, -3));
}

TEST(Topk, Encode_FewerNonZerosThanCapacity_SendsNoZeros) {
  const Plan plan = simple_plan("topk:1", 4);
  TwoPhase world{plan};
  world.encode(0, const_view_of(std::vector<float>{0, 2, -0.0f, 0}));
  const TopkSlot slot{world.sent(0, 0), 4, 4};
  EXPECT_THAT(slot.first, ElementsAre(0, 1));
  EXPECT_THAT(slot.local, ElementsAre(1, 0, 0, 0));
  EXPECT_THAT(slot.value, ElementsAre(0x4000, 0, 0, 0));
}

// 1 + 2^-9 goes as 1.
TEST(Topk, Encode_RoundingOfTheValue_GoesToTheResidual) {
  const Plan plan = simple_plan("topk:1", 1);
  TwoPhase world{plan};
  world.encode(0, const_view_of(std::vector<float>{1.0f + 0x1p-9f}));
  world.commit();
  EXPECT_THAT(world.state(0).export_worker().at(0).values, ElementsAre(0x1p-9f));
}

// Positions go on through the spans: p1 begins at 65535, so its element 1 opens the second block.
TEST(Topk, Encode_TwoBlocksOfPositions_CrossParameters) {
  const Plan plan{{parse_codec("topk:1")}, contiguous_spans({65535, 3}), with_ranks(1)};
  TwoPhase world{plan};
  std::vector<float> gradients(65538, 0.0f);
  gradients[65535] = 1.0f;
  gradients[65536] = 2.0f;
  gradients[65537] = 4.0f;
  world.encode(0, const_view_of(gradients));
  const TopkSlot slot{world.sent(0, 0), 65538, 65538};
  EXPECT_THAT(slot.first, ElementsAre(0, 1, 3));
  EXPECT_EQ(slot.local[0], 65535);
  EXPECT_EQ(slot.local[1], 0);
  EXPECT_EQ(slot.local[2], 1);
}

// Group 1 has a large residual but no gradient: nothing of it is sent.
TEST(Topk, Encode_GroupWithoutGradient_HasNoCandidate) {
  const Plan plan = simple_plan("topk:0.02", 128);  // 3 entries
  TwoPhase world{plan};
  std::vector<float> residual(128, 0.0f);
  residual[100] = 50.0f;
  residual[7] = 2.0f;
  const std::vector<Residual> given{{"p0", 0, residual}};
  world.state(0).import_worker(given);
  std::vector<float> gradients(128, 0.0f);
  gradients[3] = 1.0f;
  world.encode(0, const_view_of(gradients));
  world.commit();
  const TopkSlot slot{world.sent(0, 0), 128, 3};
  EXPECT_THAT(slot.first, ElementsAre(0, 2));
  EXPECT_THAT(slot.local, ElementsAre(3, 7, 0));
  EXPECT_EQ(world.state(0).export_worker().at(0).values[100], 50.0f);
}

// Both spans owe something on the owner. Only p0 gets entries in this step, and one entry goes
// back: x = (1, 2, 3) + (0, 0, 0); p1 keeps what it owes although it is larger.
TEST(Topk, ServerStep_SpanWithoutEntry_StaysInTheServerResidual) {
  const Plan plan{{parse_codec("topk:1/0.2")}, contiguous_spans({3, 3}), with_ranks(1)};
  TwoPhase world{plan};
  const std::vector<Residual> given{{"p1", 0, {9, -9, 9}}};
  EXPECT_EQ(world.state(0).import_server(given), 3);
  std::vector<float> out;
  world.allreduce({{1, 2, 3, 0, 0, 0}}, out);
  world.commit();
  EXPECT_THAT(out, ElementsAre(0, 0, 3, 0, 0, 0));
  const auto server = world.state(0).export_server();
  EXPECT_THAT(server.at(0).values, ElementsAre(1, 2, 0));
  EXPECT_THAT(server.at(1).values, ElementsAre(9, -9, 9));
}

// The group rule is the worker's only: what the owner owes in a group without an entry is sent if
// its span got one elsewhere.
TEST(Topk, ServerStep_SpanWithOneEntry_SendsAllItOwes) {
  const Plan plan = simple_plan("topk:1", 130);
  TwoPhase world{plan};
  std::vector<float> owed(130, 0.0f);
  owed[129] = 4.0f;
  const std::vector<Residual> given{{"p0", 0, owed}};
  world.state(0).import_server(given);
  std::vector<float> gradients(130, 0.0f);
  gradients[0] = 1.0f;
  std::vector<float> out;
  world.allreduce({gradients}, out);
  world.commit();
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[129], 4.0f);
  EXPECT_EQ(world.state(0).export_server().at(0).values[129], 0.0f);
}

// A NaN empties its block of 65536 positions; other blocks go on. Finite elements of the block keep
// x, the others e.
TEST(Topk, NonFinite_OneBlock_IsFlaggedAndBecomesNaN) {
  const Plan plan = simple_plan("topk:1", 65536 + 2);
  TwoPhase world{plan};
  std::vector<float> residual(65538, 0.25f);
  const std::vector<Residual> given{{"p0", 0, residual}};
  world.state(0).import_worker(given);
  std::vector<float> gradients(65538, 0.0f);
  gradients[1] = std::numeric_limits<float>::quiet_NaN();
  gradients[2] = 3.0f;
  gradients[65537] = 8.0f;
  std::vector<float> out;
  EXPECT_FALSE(world.allreduce({gradients}, out).finite());
  world.commit();
  const TopkSlot slot{world.sent(0, 0), 65538, 65538};
  EXPECT_THAT(slot.first, ElementsAre(0x80000000u, 0, 2));
  const auto kept = world.state(0).export_worker().at(0).values;
  EXPECT_EQ(kept[1], 0.25f);
  EXPECT_EQ(kept[2], 3.25f);
  EXPECT_EQ(kept[100], 0.25f);
  EXPECT_TRUE(std::all_of(out.begin(), out.begin() + 65536, [](float v) { return v != v; }));
  EXPECT_EQ(out[65536], 0.25f);
  EXPECT_EQ(out[65537], 8.25f);
}

// The largest floats round up to a bf16 Inf.
TEST(Topk, NonFinite_ValueThatOverflowsBf16_KeepsX) {
  const Plan plan = simple_plan("topk:1", 2);
  TwoPhase world{plan};
  const float largest = std::numeric_limits<float>::max();
  std::vector<float> out;
  EXPECT_FALSE(world.allreduce({{largest, 1.0f}}, out).finite());
  world.commit();
  EXPECT_THAT(world.state(0).export_worker().at(0).values, ElementsAre(largest, 1.0f));
}

TEST(Topk, NonFinite_PolicyZero_SendsNothingAndFlags) {
  PlanSettings settings = with_ranks(1);
  settings.non_finite = NonFinite::zero;
  const Plan plan{{parse_codec("topk:1")}, contiguous_spans({2}), settings};
  TwoPhase world{plan};
  std::vector<float> out;
  const Verdict verdict = world.allreduce({{std::numeric_limits<float>::infinity(), 1.0f}}, out);
  world.commit();
  EXPECT_TRUE(verdict.finite());
  EXPECT_EQ(verdict.flags, flag_zeroed);
  EXPECT_THAT(out, ElementsAre(0, 0));
  EXPECT_THAT(world.state(0).export_worker().at(0).values, ElementsAre(0, 1));
}

/// Writes `value` at a byte of a slot's payload, makes the checksum right again, and decodes.
template <typename T>
void decode_with(std::size_t byte, T value) {
  const Plan plan = simple_plan("topk:0.5", 65536 + 8);  // 32772 entries, first[] of 3
  TwoPhase world{plan};
  std::vector<float> gradients(65544, 0.0f);
  for (const std::size_t i : {1, 2, 65536, 65543}) gradients[i] = 1.0f;
  std::vector<float> out;
  world.allreduce({gradients}, out);
  const auto slot = world.reduced(0);
  std::memcpy(slot.data() + header_bytes + byte, &value, sizeof value);
  SlotHeader header;
  std::memcpy(&header, slot.data(), sizeof header);
  header.checksum = digest(slot.subspan(header_bytes, header.payload_length), 0);
  std::memcpy(slot.data(), &header, sizeof header);
  world.decode(0, view_of(std::span<float>{out}));
}

// first = {0, 2, 4}; local = {1, 2, 0, 7} from byte 16.
TEST(Topk, Decode_BrokenIndices_AreRefused) {
  EXPECT_NO_THROW(decode_with(0, std::uint32_t{0}));
  EXPECT_THROW(decode_with(0, std::uint32_t{1}), FormatError);            // starts late
  EXPECT_THROW(decode_with(4, std::uint32_t{5}), FormatError);            // not monotone
  EXPECT_THROW(decode_with(4, std::uint32_t{0x80000002u}), FormatError);  // flagged, with entries
  EXPECT_THROW(decode_with(8, std::uint32_t{32773}), FormatError);        // over the capacity
  EXPECT_THROW(decode_with(8, std::uint32_t{0x80000004u}), FormatError);
  EXPECT_THROW(decode_with(16, std::uint16_t{2}), FormatError);  // twice the same index
  EXPECT_THROW(decode_with(18, std::uint16_t{0}), FormatError);  // falling
  EXPECT_THROW(decode_with(22, std::uint16_t{8}), FormatError);  // past the end of block 1
  EXPECT_NO_THROW(decode_with(22, std::uint16_t{6}));
}

TEST(Topk, Encode_CountInDouble_RoundsHalfUp) {
  EXPECT_EQ(simple_plan("topk:0.01", 50).slot(0, 0).runs.at(0).entries, 1);    // 0.5 + 0.5
  EXPECT_EQ(simple_plan("topk:0.01", 149).slot(0, 0).runs.at(0).entries, 1);   // 1.99
  EXPECT_EQ(simple_plan("topk:0.01", 150).slot(0, 0).runs.at(0).entries, 2);   // 2.0
  EXPECT_EQ(simple_plan("topk:0.0001", 10).slot(0, 0).runs.at(0).entries, 1);  // at least one
  EXPECT_EQ(simple_plan("topk:1", 10).slot(0, 0).runs.at(0).entries, 10);
}

}  // namespace
}  // namespace thinwire::compress
