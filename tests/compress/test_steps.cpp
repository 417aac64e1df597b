#include <gtest/gtest.h>

#include "plans.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::awkward_gradients_of_ranks;
using test::contiguous_spans;
using test::TwoPhase;
using test::with_ranks;

/// Skips one step between two, or does not make it at all.
std::vector<std::uint32_t> after_skipped_step(const std::string& codec, Commit commit, bool skip) {
  PlanSettings settings = with_ranks(2);
  settings.commit = commit;
  const Plan plan{{parse_codec(codec)}, contiguous_spans({3000}), settings};
  TwoPhase world{plan};
  std::vector<float> out;
  world.allreduce(awkward_gradients_of_ranks(2, 3000, 1), out);
  world.commit();
  if (skip) {
    world.allreduce(awkward_gradients_of_ranks(2, 3000, 2), out);
    EXPECT_TRUE(world.state(0).in_step());
    world.discard();
  }
  const auto server = test::bits(world.state(0).export_server().at(0).values);
  world.allreduce(awkward_gradients_of_ranks(2, 3000, 3), out);
  world.commit();
  auto result = test::bits(out);
  result.insert(result.end(), server.begin(), server.end());
  return result;
}

TEST(Steps, SkippedStep_DoubleBuffered_NeverHappened) {
  for (const std::string& codec : test::codecs_with_feedback) {
    EXPECT_EQ(after_skipped_step(codec, Commit::double_buffered, true),
              after_skipped_step(codec, Commit::double_buffered, false))
        << codec;
  }
}

// In place the worker residual has moved on, so the next output differs; server residuals are
// double in every mode and stand where they stood.
TEST(Steps, SkippedStep_InPlace_KeepsServerResiduals) {
  for (const std::string codec : {"sign", "int8", "int4", "fp16"}) {
    const auto skipped = after_skipped_step(codec, Commit::in_place, true);
    const auto without = after_skipped_step(codec, Commit::in_place, false);
    EXPECT_NE(skipped, without) << codec;
    EXPECT_TRUE(std::equal(skipped.begin() + 3000, skipped.end(), without.begin() + 3000)) << codec;
  }
}

}  // namespace
}  // namespace thinwire::compress
