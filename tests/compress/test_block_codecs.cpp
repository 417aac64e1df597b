// Small cases worked out by hand from docs/wire-format.md: one rank, so that what is sent is what
// the codec made of x = g * inv + e.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plans.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::simple_plan;
using test::TwoPhase;
using testing::ElementsAre;

/// One block or more on one rank.
class Encoded {
 public:
  Encoded(const std::string& codec, const std::vector<float>& gradients,
          const std::vector<float>& residual = {}, float inv_scale = 1.0f)
      : plan_{simple_plan(codec, static_cast<std::int64_t>(gradients.size()))}, world_{plan_} {
    const std::vector<Residual> given{{"p0", 0, residual}};
    world_.state(0).import_worker(given);
    world_.encode(0, const_view_of(gradients), {.inv_scale = &inv_scale});
    world_.commit();
  }

  /// Bytes of the values part.
  std::vector<int> values(std::size_t count) const {
    std::vector<int> result;
    for (std::size_t i = 0; i < count; ++i) {
      result.push_back(std::to_integer<int>(byte(pad16(run().scale_bytes) + i)));
    }
    return result;
  }
  std::vector<int> values16(std::size_t count) const {
    std::vector<int> result;
    const auto bytes = values(2 * count);
    for (std::size_t i = 0; i < count; ++i) result.push_back(bytes[2 * i] | bytes[2 * i + 1] << 8);
    return result;
  }
  std::uint32_t word(std::size_t block) const {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      value |= std::to_integer<std::uint32_t>(byte(4 * block + i)) << (8 * i);
    }
    return value;
  }
  float scale(std::size_t block) const { return std::bit_cast<float>(word(block)); }

  std::vector<float> residual() const { return world_.state(0).export_worker().at(0).values; }

 private:
  static std::size_t pad16(std::size_t bytes) { return (bytes + 15) / 16 * 16; }
  const compress::Run& run() const { return plan_.slot(0, 0).runs.at(0); }
  std::byte byte(std::size_t i) const { return world_.sent(0, 0)[run().offset + i]; }

  Plan plan_;
  mutable TwoPhase world_;
};

/// n numbers that are 0 but for some.
std::vector<float> sparse(std::size_t n, const std::vector<std::pair<std::size_t, float>>& some) {
  std::vector<float> values(n, 0.0f);
  for (const auto& [i, value] : some) values[i] = value;
  return values;
}

// |x| sums to 8 over 4 elements: s = 2 = 0x4000, group 0 is live, element 1 is negative. The zero
// is sent as +2 and owes -2.
TEST(SignCodec, Encode_FourElements_SendsMeanAndSigns) {
  const Encoded block{"sign", {1, -3, 0, 4}};
  EXPECT_EQ(block.word(0), 0x40000001u);
  EXPECT_THAT(block.values(8), ElementsAre(2, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(block.residual(), ElementsAre(-1, -1, -2, 2));
}

// (1 + 49) / 2 = 25, s = 5 = 0x40A0.
TEST(SignCodec, Encode_Rms_SendsRootOfMeanSquare) {
  const Encoded block{"sign:rms", {1, -7}};
  EXPECT_EQ(block.word(0), 0x40A00001u);
  EXPECT_THAT(block.residual(), ElementsAre(-4, -2));
}

// The mean 1 + 2^-8 lies between 1 and 1 + 2^-7: to even, 1 = 0x3F80.
TEST(SignCodec, Encode_MeanBetweenTwoBf16_RoundsToEven) {
  EXPECT_EQ(Encoded("sign", {1.0f, 1.0078125f}).word(0), 0x3F800001u);
}

// x = 0.5 * g + e = {3, -1}: mean 2.
TEST(SignCodec, Encode_InverseScaleAndResidual_EnterX) {
  const Encoded block{"sign", {2, 4}, {2, -3}, 0.5f};
  EXPECT_EQ(block.word(0), 0x40000001u);
  EXPECT_THAT(block.values(1), ElementsAre(2));
  EXPECT_THAT(block.residual(), ElementsAre(1, 1));
}

// Group 1 got no gradient: bit 1 of the mask is 0, the mean is over group 0 and 2 alone (64 + 1
// elements, sum 130), and its residual stays. Its sign bits are those of x = e.
TEST(SignCodec, Encode_GroupWithoutGradient_KeepsItsResidual) {
  std::vector<float> gradients(129, 2.0f);
  std::fill_n(gradients.begin() + 64, 64, -0.0f);
  std::vector<float> residual(129, 0.0f);
  residual[64] = -5.0f;
  residual[127] = 7.0f;
  const Encoded block{"sign", gradients, residual};
  EXPECT_EQ(block.word(0), 0x40000005u);
  EXPECT_EQ(block.values(9)[8], 1);
  EXPECT_EQ(block.residual()[64], -5.0f);
  EXPECT_EQ(block.residual()[127], 7.0f);
  EXPECT_EQ(block.residual()[128], 0.0f);
}

// 2^24 + 2^16 over 1024 lies between two bf16 and goes to the even one below; 2 more would go up.
// Numbers of 1 that meet it one by one vanish: 2^24 + 2^16 + 1 rounds back. Denormals keep all
// groups live.
std::vector<float> big_and_ones(const std::vector<std::size_t>& ones) {
  std::vector<float> values(1024, 0.0f);
  for (std::size_t i = 0; i < 1024; i += 64) values[i + 63] = 0x1p-149f;
  values[0] = 0x1p24f + 0x1p16f;
  for (const std::size_t i : ones) values[i] = 1.0f;
  return values;
}

TEST(SignCodec, Sum_SameLane_AddsInOrder) {
  EXPECT_EQ(Encoded("sign", big_and_ones({128, 256})).word(0), 0x4680FFFFu);
}

// Lanes 2 and 3 meet first (1 + 1), then lane 0: the sum is 2 more.
TEST(SignCodec, Sum_Lanes_AddsNeighboursFirst) {
  EXPECT_EQ(Encoded("sign", big_and_ones({2, 3})).word(0), 0x4681FFFFu);
  EXPECT_EQ(Encoded("sign", big_and_ones({1, 2})).word(0), 0x4680FFFFu);
}

// The second block is short: 1 element, its own header word and 8 bytes of bits.
TEST(SignCodec, Encode_ShortBlock_IsNotPadded) {
  std::vector<float> gradients(1025, 1.0f);
  gradients[1024] = -8.0f;
  const Encoded block{"sign", gradients};
  EXPECT_EQ(block.word(0), 0x3F80FFFFu);
  EXPECT_EQ(block.word(1), 0x41000001u);
  EXPECT_EQ(block.values(136)[128], 1);
}

// M = 127: s = 1, q = rne(x): -63.5 to -64, 0.5 to 0, 1.5 to 2.
TEST(Int8Codec, Encode_UnitScale_RoundsToEven) {
  const Encoded block{"int8", {127, -63.5f, 0.5f, 1.5f}};
  EXPECT_EQ(block.scale(0), 1.0f);
  EXPECT_THAT(block.values(5), ElementsAre(0x7F, 0xC0, 0x00, 0x02, 0x00));
  EXPECT_THAT(block.residual(), ElementsAre(0, 0.5f, 0.5f, -0.5f));
}

TEST(Int8Codec, Encode_TwoBlocks_HaveTheirOwnScales) {
  const Encoded blocks{"int8", sparse(300, {{3, 254.0f}, {256, 12.7f}})};
  EXPECT_EQ(blocks.scale(0), 2.0f);
  EXPECT_EQ(blocks.scale(1), 12.7f / 127.0f);
  EXPECT_EQ(blocks.values(257)[3], 127);
  EXPECT_EQ(blocks.values(257)[256], 127);
}

// M = 7: s = 1; -2 is 0xE, -7 is 0x9, first element in the low nibble.
TEST(Int4Codec, Encode_UnitScale_PacksLowNibbleFirst) {
  const Encoded block{"int4", {7, -2.5f, 0.5f, 1.5f, -7}};
  EXPECT_EQ(block.scale(0), 1.0f);
  EXPECT_THAT(block.values(4), ElementsAre(0xE7, 0x20, 0x09, 0x00));
  EXPECT_THAT(block.residual(), ElementsAre(0, -0.5f, 0.5f, -0.5f, 0));
}

// M = 1: s = 2^-14; 1 is 16384 s = 0x7400, -0.5 is 0xF000. 0.5 + 2^-13 is 8194 s, and fp16 has
// steps of 8 there: 0x7000, owing 2^-13. 2^-25 is 2^-11 s = 0x1000.
TEST(Fp16Codec, Encode_SmallBlock_ScalesByPowerOfTwo) {
  const Encoded block{"fp16", {1.0f, -0.5f, 0.5f + 0x1p-13f, 0x1p-25f}};
  EXPECT_EQ(block.scale(0), 0x1p-14f);
  EXPECT_THAT(block.values16(5), ElementsAre(0x7400, 0xF000, 0x7000, 0x1000, 0));
  EXPECT_THAT(block.residual(), ElementsAre(0, 0, 0x1p-13f, 0));
}

// 1 + 2^-8 lies between 1 and 1 + 2^-7 and goes to even; group 1 got no gradient.
TEST(Bf16Codec, Encode_WithFeedback_KeepsRoundingAndDeadGroups) {
  std::vector<float> residual(65, 0.0f);
  residual[64] = 3.0f;
  const Encoded block{"bf16+ef", sparse(65, {{0, 1.0f}, {1, 1.00390625f}, {2, -3.0f}}), residual};
  const auto values = block.values16(65);
  EXPECT_EQ(values[0], 0x3F80);
  EXPECT_EQ(values[1], 0x3F80);
  EXPECT_EQ(values[2], 0xC040);
  EXPECT_EQ(values[64], 0);
  EXPECT_EQ(block.residual()[1], 0x1p-8f);
  EXPECT_EQ(block.residual()[64], 3.0f);
}

// 1 / M must not overflow: below 2^-100 everything stays in the residual.
TEST(ScaledCodecs, Encode_BelowTwoToTheMinus100_SendsNothing) {
  for (const std::string codec : {"int8", "int4", "fp16"}) {
    SCOPED_TRACE(codec);
    const float below = std::bit_cast<float>(std::bit_cast<std::uint32_t>(0x1p-100f) - 1);
    const Encoded small{codec, {below, -0x1p-149f}};
    EXPECT_EQ(small.word(0), 0u);
    EXPECT_THAT(small.values(4), ElementsAre(0, 0, 0, 0));
    EXPECT_THAT(small.residual(), ElementsAre(below, -0x1p-149f));
    EXPECT_GT(Encoded(codec, {0x1p-100f}).scale(0), 0.0f);
  }
}

// A whole block is the group of int8 and int4.
TEST(ScaledCodecs, Encode_BlockWithoutGradient_KeepsItsResidual) {
  for (const std::string codec : {"int8", "int4", "fp16"}) {
    SCOPED_TRACE(codec);
    const Encoded block{codec, {0.0f, -0.0f}, {3.0f, -0x1p-149f}};
    EXPECT_EQ(block.word(0), 0u);
    EXPECT_THAT(block.residual(), ElementsAre(3.0f, -0x1p-149f));
  }
}

// Payload of a section `none` beside another codec: fp32 as it is, -0 included.
TEST(NoneCodec, Encode_InAMixedBucket_KeepsEveryBit) {
  auto spans = test::contiguous_spans({1, 3});
  spans[1].section = 1;
  const Plan plan{{parse_codec("sign"), parse_codec("none")}, spans, test::with_ranks(1)};
  TwoPhase world{plan};
  world.encode(0, const_view_of(std::vector<float>{1.0f, -0.0f, 0x1p-149f, 3.5f}));
  std::vector<std::uint32_t> words(4);
  std::memcpy(words.data(), world.sent(0, 0).data() + plan.slot(0, 0).runs.at(1).offset, 16);
  EXPECT_THAT(words, ElementsAre(0x80000000u, 1u, 0x40600000u, 0u));
}

// Ranks send +-2 and +-4: y = (3, 1), so the owner sends +2 +2 and owes 1 and -1.
TEST(ServerStep, Sign_TwoRanks_EncodesTheMean) {
  const Plan plan = simple_plan("sign", 2, 2);
  TwoPhase world{plan};
  std::vector<float> out;
  world.allreduce({{2, -2}, {4, 4}}, out);
  world.commit();
  EXPECT_THAT(out, ElementsAre(2, 2));
  EXPECT_THAT(world.state(0).export_server().at(0).values, ElementsAre(1, -1));
}

// The same with r = (1, -1) from before: x = (4, 0), group still live, mean 2.
TEST(ServerStep, Sign_SecondStep_AddsTheServerResidual) {
  const Plan plan = simple_plan("sign", 2, 2);
  TwoPhase world{plan};
  std::vector<float> out;
  for (int step = 0; step < 2; ++step) {
    world.allreduce({{2, -2}, {4, 4}}, out);
    world.commit();
  }
  EXPECT_THAT(out, ElementsAre(2, 2));
  EXPECT_THAT(world.state(0).export_server().at(0).values, ElementsAre(2, -2));
}

}  // namespace
}  // namespace thinwire::compress
