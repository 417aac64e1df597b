#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "plans.hpp"
#include "thinwire/compress/header.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::contiguous_spans;
using test::TwoPhase;
using test::with_ranks;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float largest = std::numeric_limits<float>::max();

const std::vector<std::string> block_codecs{"bf16+ef", "fp16", "int8", "int4", "sign", "sign:rms"};

PlanSettings with_policy(NonFinite policy, Commit commit) {
  PlanSettings settings = with_ranks(2);
  settings.non_finite = policy;
  settings.commit = commit;
  return settings;
}

/// Two ranks, 2048 + 100 elements of which rank 1 has `bad` at element 1500; a second, finite step
/// shows that residuals stayed sound.
class BadStep {
 public:
  BadStep(const std::string& codec, NonFinite policy, Commit commit, float bad)
      : plan_{{parse_codec(codec)}, contiguous_spans({2048, 100}), with_policy(policy, commit)},
        world_{plan_},
        gradients_{test::awkward_gradients_of_ranks(2, 2148, 9)} {
    std::vector<float> ignored;
    world_.allreduce(gradients_, ignored);
    world_.commit();
    before_ = world_.state(1).export_worker();
    gradients_[1][bad_element] = bad;
    verdict_ = world_.allreduce(gradients_, out_);
    world_.commit();
    after_ = world_.state(1).export_worker();
  }

  static constexpr std::size_t bad_element = 1500;

  bool in_bad_block(std::size_t i) const {
    const auto block = static_cast<std::size_t>(block_elements(plan_.sections()[0].codec));
    return i < 2048 && i / block == bad_element / block;
  }

  Verdict verdict() const { return verdict_; }
  const std::vector<float>& out() const { return out_; }

  /// Of rank 1, the bad block: what was there before is there still.
  void expect_residual_kept() const {
    for (std::size_t i = 0; i < 2048; ++i) {
      if (in_bad_block(i)) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(after_[0].values[i]),
                  std::bit_cast<std::uint32_t>(before_[0].values[i]))
            << i;
      }
    }
  }

  /// Of all ranks, both sides.
  void expect_residuals_finite() {
    for (const double owed : world_.owed()) ASSERT_TRUE(std::isfinite(owed));
  }

 private:
  Plan plan_;
  TwoPhase world_;
  std::vector<std::vector<float>> gradients_;
  std::vector<Residual> before_;
  std::vector<Residual> after_;
  std::vector<float> out_;
  Verdict verdict_;
};

TEST(NonFinite, Propagate_BadBlock_BecomesNaNAndKeepsItsResidual) {
  for (const std::string& codec : block_codecs) {
    for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
      for (const float bad : {not_a_number, infinity, -infinity}) {
        SCOPED_TRACE(fmt::format("{} {} commit={}", codec, bad, static_cast<int>(commit)));
        BadStep step{codec, NonFinite::propagate, commit, bad};
        EXPECT_FALSE(step.verdict().finite());
        EXPECT_EQ(step.verdict().flags, flag_non_finite);
        for (std::size_t i = 0; i < step.out().size(); ++i) {
          const auto bits = std::bit_cast<std::uint32_t>(step.out()[i]);
          ASSERT_EQ(bits == canonical_nan_f32, step.in_bad_block(i)) << i;
          ASSERT_EQ(std::isfinite(step.out()[i]), !step.in_bad_block(i)) << i;
        }
        step.expect_residual_kept();
        step.expect_residuals_finite();
      }
    }
  }
}

// The other rank's part of the block is averaged with zero; nothing is NaN.
TEST(NonFinite, Zero_BadBlock_IsSentAsZero) {
  for (const std::string& codec : block_codecs) {
    SCOPED_TRACE(codec);
    BadStep step{codec, NonFinite::zero, Commit::in_place, not_a_number};
    EXPECT_TRUE(step.verdict().finite());
    EXPECT_EQ(step.verdict().flags, flag_zeroed);
    for (const float value : step.out()) ASSERT_TRUE(std::isfinite(value));
    step.expect_residual_kept();
    step.expect_residuals_finite();
  }
}

TEST(NonFinite, Raise_BadBlock_TravelsAsWithPropagate) {
  BadStep step{"sign", NonFinite::raise, Commit::double_buffered, infinity};
  EXPECT_EQ(step.verdict().flags, flag_non_finite);
  EXPECT_TRUE(std::isnan(step.out()[BadStep::bad_element]));
}

// Finite numbers whose sum over a block, or whose decoded value, is not: no residual may become
// Inf. The second step is small and must be finite again.
TEST(NonFinite, LargestFloats_AnyCodec_LeaveFiniteResiduals) {
  for (const std::string codec :
       {"bf16+ef", "fp16", "int8", "int4", "sign", "sign:rms", "topk:1"}) {
    for (const float value :
         {largest, std::nextafter(largest, 0.0f), 0x1.fffp127f, 0x1.ff8p127f, 0x1p127f}) {
      SCOPED_TRACE(fmt::format("{} {}", codec, value));
      const Plan plan{{parse_codec(codec)}, contiguous_spans({200}), with_ranks(3)};
      TwoPhase world{plan};
      std::vector<float> out;
      std::vector<std::vector<float>> gradients(3, std::vector<float>(200, value));
      gradients[1][7] = -value;
      gradients[2][9] = 1.0f;
      world.allreduce(gradients, out);
      world.commit();
      for (const double owed : world.owed()) ASSERT_TRUE(std::isfinite(owed));
    }
  }
}

// Codecs whose values can carry the number, do.
TEST(NonFinite, LargestFloats_Int4AndNone_ArriveFinite) {
  const Plan plan{{parse_codec("int4")}, contiguous_spans({3}), with_ranks(1)};
  TwoPhase world{plan};
  std::vector<float> out;
  EXPECT_TRUE(world.allreduce({{largest, -largest, 0.0f}}, out).finite());
  EXPECT_EQ(out[0], largest);
}

// A section `none` in a mixed bucket spreads a NaN over its block of 1024, and no further.
TEST(NonFinite, SectionNone_NaN_SpreadsOverOneBlock) {
  auto spans = contiguous_spans({64, 2000});
  spans[1].section = 1;
  const Plan plan{{parse_codec("sign"), parse_codec("none")}, spans, with_ranks(2)};
  TwoPhase world{plan};
  std::vector<std::vector<float>> gradients(2, std::vector<float>(2064, 1.0f));
  gradients[0][64 + 5] = not_a_number;
  std::vector<float> out;
  EXPECT_FALSE(world.allreduce(gradients, out).finite());
  for (std::size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(std::isnan(out[i]), i >= 64 && i < 64 + 1024) << i;
  }
}

// 0 * inv is NaN for an infinite inv, but a group without gradient does not look at x.
TEST(NonFinite, InfiniteInverseScale_ZeroGradients_StayZero) {
  const Plan plan{{parse_codec("sign")}, contiguous_spans({128}), with_ranks(1)};
  TwoPhase world{plan};
  std::vector<float> out;
  EXPECT_TRUE(
      world.allreduce({std::vector<float>(128, 0.0f)}, out, {.inv_scale = &infinity}).finite());
  for (const float value : out) EXPECT_EQ(value, 0.0f);
}

}  // namespace
}  // namespace thinwire::compress
