#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "thinwire/core/dtype.hpp"

namespace thinwire {
namespace {

TEST(DType, ParseDtype_EveryName_RoundTrips) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    EXPECT_EQ(parse_dtype(to_string(dtype)), dtype);
  }
  EXPECT_THROW(parse_dtype("f64"), InvalidArgument);
}

TEST(DType, Fp16_EveryBitPattern_RoundTrips) {
  for (std::uint32_t bits = 0; bits <= 0xFFFFu; ++bits) {
    const float value = from_fp16_bits(static_cast<std::uint16_t>(bits));
    std::uint16_t expected = static_cast<std::uint16_t>(bits);
    if (std::isnan(value)) expected = canonical_nan_f16;
    if (std::isinf(value)) expected = static_cast<std::uint16_t>((bits & 0x8000u) | 0x7BFFu);
    EXPECT_EQ(fp16_bits(value), expected) << bits;
  }
}

// Between two neighbours a and b of fp16 the exact midpoint goes to the even one, anything beyond
// the midpoint to the nearer one.
TEST(DType, Fp16_BetweenNeighbours_RoundsToNearestEven) {
  for (std::uint16_t bits = 0; bits < 0x7BFFu; ++bits) {
    const float low = from_fp16_bits(bits);
    const float high = from_fp16_bits(static_cast<std::uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;  // exact in fp32
    const std::uint16_t even = static_cast<std::uint16_t>((bits & 1u) ? bits + 1 : bits);
    ASSERT_EQ(fp16_bits(middle), even) << bits;
    ASSERT_EQ(fp16_bits(std::nextafter(middle, 0.0f)), bits) << bits;
    ASSERT_EQ(fp16_bits(std::nextafter(middle, high)), bits + 1) << bits;
  }
}

TEST(DType, Bf16_EveryBitPattern_RoundTrips) {
  for (std::uint32_t bits = 0; bits <= 0xFFFFu; ++bits) {
    const float value = from_bf16_bits(static_cast<std::uint16_t>(bits));
    const auto expected = std::isnan(value) ? canonical_nan_bf16 : static_cast<std::uint16_t>(bits);
    EXPECT_EQ(bf16_bits(value), expected) << bits;
  }
}

TEST(DType, Bf16_BeyondTheLargest_BecomesInf) {
  EXPECT_EQ(bf16_bits(std::numeric_limits<float>::max()), 0x7F80u);
  EXPECT_EQ(bf16_bits(-std::numeric_limits<float>::max()), 0xFF80u);
}

}  // namespace
}  // namespace thinwire
