#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline {
namespace {

using testing::HasSubstr;

std::string refusal(std::string_view name, int p, int m, int v) {
  try {
    generate(name, p, m, v);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Generators, SmallExamples_AreAsPublished) {
  EXPECT_EQ(to_csv(gpipe(2, 2), Flavour::compute_only), "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n");
  EXPECT_EQ(to_csv(one_f_one_b(2, 3), Flavour::compute_only),
            "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n");
  EXPECT_EQ(to_csv(zb1p(2, 3), Flavour::compute_only),
            "0F0,0F1,0I0,0W0,0F2,0I1,0W1,0I2,0W2\n1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2\n");
  EXPECT_EQ(to_csv(interleaved(2, 2, 2), Flavour::compute_only),
            "0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3B0,3F1,3B1,1B0,1B1\n");
}

TEST(Generators, InterleavedUnevenGroups_TakeTheLargerFirst) {
  // p = 2, m = 5: groups of 3 and 2, so rank 1 warms up with 3 of chunk 0 before chunk 1.
  const Schedule schedule = interleaved(2, 5, 2);
  std::string forwards;
  for (const Action& action : schedule.actions[1]) {
    if (action.kind == Kind::forward) forwards += to_string(action) + " ";
  }
  EXPECT_EQ(forwards, "1F0 1F1 1F2 3F0 3F1 3F2 1F3 1F4 3F3 3F4 ");
}

TEST(Generators, EverySizeInRange_IsValid) {
  for (const GeneratorInfo& info : generators()) {
    for (int p = 1; p <= 8; ++p) {
      for (int m = 1; m <= 24; ++m) {
        for (int v = 1; v <= 4; ++v) {
          if (!can_generate(info.name, p, m, v)) continue;
          const Verdict verdict = validate(generate(info.name, p, m, v));
          ASSERT_TRUE(verdict.valid()) << info.name << " p=" << p << " m=" << m << " v=" << v
                                       << ": " << verdict.defect->message;
        }
      }
    }
  }
}

TEST(Generators, ImpossibleSize_NamesRuleAndValue) {
  EXPECT_THAT(refusal("1f1b", 0, 4, 1), HasSubstr("p = 0 ranks, but p >= 1"));
  EXPECT_THAT(refusal("gpipe", 2, 0, 1), HasSubstr("m = 0 micro-batches, but m >= 1"));
  EXPECT_THAT(refusal("1f1b", 2, 4, 2), HasSubstr("v = 2 stages a rank, but p, m >= 1, v = 1"));
  EXPECT_THAT(refusal("interleaved", 2, 4, 1), HasSubstr("v = 1 stages a rank, but"));
  EXPECT_THAT(refusal("zb1p", 2, 4, 2), HasSubstr("v = 2"));
  EXPECT_THAT(refusal("zbv", 2, 4, 3), HasSubstr("v = 3"));
  EXPECT_THAT(refusal("dualpipev", 4, 7, 2), HasSubstr("m = 7 micro-batches on p = 4 ranks"));
  EXPECT_THAT(refusal("interleaved", 1 << 15, 1 << 15, 2), HasSubstr("cells"));
  EXPECT_THAT(refusal("2f2b", 2, 4, 1), HasSubstr("known are gpipe, 1f1b"));
}

}  // namespace
}  // namespace thinwire::pipeline
