#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "allreduce_sizes.hpp"
#include "allreduce_values.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::bench {
namespace {

using ::testing::ElementsAre;

TEST(ParseBytes, NumbersAndUnits_GiveBytes) {
  EXPECT_EQ(parse_bytes("1"), 1u);
  EXPECT_EQ(parse_bytes("64M"), std::size_t{64} << 20);
  EXPECT_EQ(parse_bytes("1.5K"), 1536u);
  EXPECT_EQ(parse_bytes("1e3"), 1000u);
  EXPECT_EQ(parse_bytes("4294967296G"), std::size_t{1} << 62);
}

TEST(ParseBytes, AnythingElse_IsRefusedByName) {
  for (const std::string text : {"", "abc", "K", "0", "0.5", "-1", "1e30", "1e999", "nan", "inf",
                                 "4M5", "4m", " 4", "4294967297G"}) {
    try {
      ADD_FAILURE() << "'" << text << "' gave " << parse_bytes(text);
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("'" + text + "'"));
    }
  }
}

TEST(ParseSizes, FirstToLast_GrowByTheFactorWithoutOverflow) {
  EXPECT_THAT(parse_sizes("1K", "20K", 4, 4), ElementsAre(1024, 4096, 16384));
  EXPECT_THAT(parse_sizes("4", "4", 2, 4), ElementsAre(4));
  EXPECT_EQ(parse_sizes("1", "4294967296G", 1024, 1).size(), 7u);
}

TEST(ParseSizes, NoneOrLessThanAnElement_AreRefused) {
  EXPECT_THROW(parse_sizes("1M", "1K", 2, 4), InvalidArgument);
  EXPECT_THROW(parse_sizes("2", "1K", 2, 4), InvalidArgument);
  EXPECT_THROW(parse_sizes("1", "1K", 1, 1), InvalidArgument);
}

// A plain call gives the bits that the table compares with, also where 1 / N is rounded.
TEST(ExpectedResult, PlainMeanOfAnyNumberOfRanks_IsWhatTheLibraryGives) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const int ranks : {1, 2, 3, 7}) {
      const std::int64_t elements = 1000;
      const compress::Plan plan{{compress::parse_codec("none")},
                                {{.parameter = "g", .length = elements}},
                                {.ranks = ranks, .dtype = dtype}};
      const Bytes expected = expected_result(plan, ranks, elements, dtype);
      comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
        Bytes data = make_input(plan, communicator.rank(), elements, dtype);
        const TensorView view{data.data(), elements, dtype};
        communicator.allreduce(view, view, comm::ReduceOp::avg)->wait();
        EXPECT_EQ(count_different(data, expected, size_of(dtype)), 0) << ranks << " ranks";
      });
    }
  }
}

}  // namespace
}  // namespace thinwire::bench
