#include <gtest/gtest.h>

#include "thinwire/comm/cost_model.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

// 1 Gb/s carries 125,000 bytes a millisecond.
TEST(CostModel, Ring_FourRanks_SixMessagesAndThreeHalvesOfTheBytes) {
  const LinkModel link{.gbits_per_s = 1, .latency_us = 50};
  EXPECT_DOUBLE_EQ(ring_allreduce_ms(link, 4, 1'000'000), 6 * 0.05 + 12.0);
}

TEST(CostModel, TwoPhase_FourRanks_TwoLatenciesWireAndCodec) {
  const LinkModel link{.gbits_per_s = 10, .latency_us = 50};
  EXPECT_DOUBLE_EQ(two_phase_allreduce_ms(link, 4, 1'250'000, 0.25), 2 * 0.05 + 1.0 + 0.25);
}

TEST(CostModel, OneRank_CostsNoWire) {
  EXPECT_EQ(ring_allreduce_ms({}, 1, 1'000'000), 0.0);
  EXPECT_EQ(two_phase_allreduce_ms({}, 1, 0, 0.5), 0.5);
}

TEST(CostModel, LinkWithoutRate_Throws) {
  EXPECT_THROW(ring_allreduce_ms({.gbits_per_s = 0}, 4, 1), InvalidArgument);
  EXPECT_THROW(two_phase_allreduce_ms({}, 0, 1, 0), InvalidArgument);
}

}  // namespace
}  // namespace thinwire::comm
