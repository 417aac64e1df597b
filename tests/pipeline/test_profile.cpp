#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "sample_profile.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

using testing::HasSubstr;

std::string error_of(const std::string& json) {
  try {
    profile_from_json(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Profile, Json_RoundTrips) {
  Profile profile = sample_profile(3);
  profile.ranks = {{1, 0}, {0.5, 1e9}};
  profile.lanes[{0, 1}] = {1e-3, 2e-9};
  profile.replicas = 4;
  profile.reduce_link = {1e-5, 1e-10};
  EXPECT_EQ(to_json(profile_from_json(to_json(profile))), to_json(profile));
}

/// Python's tests read this file, so it must stay what C++ writes.
TEST(Profile, SampleFile_IsWhatIsWritten) {
  std::ifstream file{THINWIRE_SAMPLE_PROFILE};
  const std::string text{std::istreambuf_iterator<char>{file}, {}};
  EXPECT_EQ(to_json(sample_profile(4)), text);
}

TEST(Profile, BadFile_NamesTheField) {
  const std::string good = to_json(sample_profile(2));
  EXPECT_THAT(error_of("{"), HasSubstr("not JSON"));
  EXPECT_THAT(error_of(replaced(good, "\"version\": 1", "\"version\": 2")),
              HasSubstr("version 2, but this program reads version 1"));
  EXPECT_THAT(error_of(replaced(good, "thinwire-profile", "other")), HasSubstr("'other'"));
  EXPECT_THAT(error_of(replaced(good, "\"dtype\"", "\"dtyp\"")), HasSubstr("'dtype' is missing"));
  EXPECT_THAT(error_of(replaced(good, "\"replicas\": 1", "\"replicas\": 1, \"x\": 1")),
              HasSubstr("unknown field 'x'"));
  EXPECT_THAT(error_of(replaced(good, "\"alpha\": 1e-05", "\"alpha\": -1")),
              HasSubstr("link.alpha is -1"));
  EXPECT_THAT(error_of(replaced(good, "\"alpha\": 1e-05", "\"alpha\": NaN")),
              HasSubstr("not JSON"));
  EXPECT_THAT(error_of(replaced(good, "\"alpha\": 1e-05", "\"alpha\": \"fast\"")),
              HasSubstr("profile.link.alpha must be a number"));
  EXPECT_THAT(error_of(replaced(good, "\"output_bytes\": 1000000.0", "\"output_bytes\": null")),
              HasSubstr("profile.layers[0].output_bytes must be a number"));
}

TEST(Profile, BadNumbers_NameTheLayer) {
  Profile profile = sample_profile(2);
  profile.layers[1].forward.fixed = std::nan("");
  EXPECT_THROW(require_usable(profile), InvalidArgument);
  profile = sample_profile(2);
  profile.layers[2].activation_bytes = -1;
  try {
    require_usable(profile);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("layers[2] (block).activation_bytes is -1"));
  }
  profile = sample_profile(2);
  profile.ranks = {{0, 0}};
  EXPECT_THROW(require_usable(profile), InvalidArgument);
}

TEST(StageCosts, SumLayersScaleBySpeedAndSamples) {
  Profile profile = sample_profile(2);  // embedding, block, block, head
  profile.ranks = {{1, 0}, {0.5, 0}};
  profile.link = {1e-3, 1e-9};
  profile.replicas = 2;
  profile.reduce_link = {1e-3, 1e-9};
  const Costs costs = stage_costs(profile, {0, 2, 4}, {0, 1}, 4);
  ASSERT_EQ(costs.stages.size(), 2u);
  EXPECT_TRUE(costs.caps.empty());
  EXPECT_DOUBLE_EQ(costs.stages[0].forward, 1.3 * (1e-4 + 4e-3));
  EXPECT_DOUBLE_EQ(costs.stages[1].forward, 2 * 2.7 * (1e-4 + 4e-3));
  EXPECT_DOUBLE_EQ(costs.stages[0].send_forward, 1e-3 + 4e6 * 1e-9);
  EXPECT_DOUBLE_EQ(costs.stages[1].send_backward, 1e-3 + 4e6 * 1e-9);
  EXPECT_EQ(costs.stages[1].input, 4e6);
  EXPECT_EQ(costs.stages[1].output, 0);
  EXPECT_DOUBLE_EQ(costs.stages[0].reduce, 2 * (1e-3 + 1.3e7 / 2 * 1e-9));
  EXPECT_DOUBLE_EQ(costs.stages[0].fixed, 1.3 * 4e7);
}

TEST(StageCosts, Recompute_TradesActivationsForTime) {
  const Profile profile = sample_profile(2);
  const StageCost plain = stage_costs(profile, {0, 2, 4}, {0, 1}, 1).stages[1];
  const StageCost again = stage_costs(profile, {0, 2, 4}, {0, 1}, 1, true).stages[1];
  EXPECT_DOUBLE_EQ(again.input_gradient, plain.input_gradient + plain.forward);
  EXPECT_DOUBLE_EQ(again.backward, plain.backward + plain.forward);
  EXPECT_EQ(again.activation, plain.input);
  EXPECT_EQ(again.transient, plain.activation - plain.input);
}

TEST(StageCosts, WrongPartition_IsRefused) {
  const Profile profile = sample_profile(2);
  EXPECT_THROW(stage_costs(profile, {0, 2, 5}, {0, 1}, 1), InvalidArgument);
  EXPECT_THROW(stage_costs(profile, {0, 4}, {0, 1}, 1), InvalidArgument);
  EXPECT_THROW(stage_costs(profile, {0, 0, 4}, {0, 1}, 1), InvalidArgument);
}

}  // namespace
}  // namespace thinwire::pipeline
