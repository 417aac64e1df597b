#include <gtest/gtest.h>

#include "thinwire/comm/buckets.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;

TEST(Buckets, MakeBuckets_CapReached_StartsANewBucket) {
  const std::vector<Parameter> parameters{{"a", {10, 10}}, {"b", {20}}, {"c", {50}}, {"d", {3}}};
  const BucketLayout layout = make_buckets(parameters, 480, one_codec(parse_codec("sign")));
  ASSERT_EQ(layout.buckets.size(), 2u);  // 400 + 80 bytes fill the first; c and d follow
  EXPECT_EQ(layout.buckets[0].elements, 120);
  EXPECT_EQ(layout.buckets[1].elements, 53);
  EXPECT_EQ(layout.placements[1].bucket, 0u);
  EXPECT_EQ(layout.placements[1].offset, 100);
  EXPECT_EQ(layout.placements[3].bucket, 1u);
  EXPECT_EQ(layout.placements[3].offset, 50);
  EXPECT_EQ(layout.buckets[0].spans[0].rows, 10);
  EXPECT_EQ(layout.buckets[0].spans[0].cols, 10);
}

TEST(Buckets, MakeBuckets_OversizedParameter_GetsItsOwn) {
  const std::vector<Parameter> parameters{{"small", {4}}, {"large", {1000}}, {"last", {4}}};
  const BucketLayout layout = make_buckets(parameters, 64, one_codec(parse_codec("none")));
  ASSERT_EQ(layout.buckets.size(), 3u);
  EXPECT_EQ(layout.buckets[1].elements, 1000);
}

TEST(Buckets, MakeBuckets_TwoCodecs_ShareABucketAsSections) {
  const std::vector<Parameter> parameters{{"fc.weight", {8, 8}}, {"fc.bias", {8}}, {"w2", {64}}};
  const BucketLayout layout = make_buckets(parameters, 1 << 20, [](const Parameter& parameter) {
    return parse_codec(parameter.shape.size() > 1 ? "sign" : "none");
  });
  ASSERT_EQ(layout.buckets.size(), 1u);
  ASSERT_EQ(layout.buckets[0].sections.size(), 2u);
  EXPECT_EQ(layout.buckets[0].spans[0].section, 0u);
  EXPECT_EQ(layout.buckets[0].spans[1].section, 1u);
  EXPECT_EQ(layout.buckets[0].spans[2].section, 1u);
}

TEST(Buckets, MakeBuckets_OtherDtype_StartsANewBucket) {
  const std::vector<Parameter> parameters{{"a", {8}, DType::f32}, {"b", {8}, DType::bf16}};
  EXPECT_EQ(make_buckets(parameters, 1 << 20, one_codec(parse_codec("none"))).buckets.size(), 2u);
}

TEST(Buckets, MakeBuckets_BadInput_NamesIt) {
  const auto codec = one_codec(parse_codec("none"));
  const std::vector<Parameter> twice{{"w", {1}}, {"w", {2}}};
  const std::vector<Parameter> negative{{"w", {-1}}};
  EXPECT_THROW(make_buckets(twice, 100, codec), InvalidArgument);
  EXPECT_THROW(make_buckets(negative, 100, codec), InvalidArgument);
  EXPECT_THROW(make_buckets({}, 0, codec), InvalidArgument);
  EXPECT_TRUE(make_buckets({}, 100, codec).buckets.empty());
}

}  // namespace
}  // namespace thinwire::comm
