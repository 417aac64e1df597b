// The harness of tests/fuzz with plain random bytes, so that every build (and every sanitizer of
// it) sees some.

#include <gtest/gtest.h>

#include <random>

#include "fuzz/decoder_harness.hpp"

namespace thinwire::compress {
namespace {

class RandomBytes : public testing::TestWithParam<std::string> {};

TEST_P(RandomBytes, EveryDecoder_GivesAResultOrAFormatError) {
  test::DecoderHarness harness{GetParam()};
  std::mt19937 random{1};
  for (int round = 0; round < 300; ++round) {
    std::vector<std::uint8_t> input(1 + random() % 4096);
    // Small numbers too: they pass for indices and counts.
    const unsigned mask = round % 3 == 0 ? 0xFFu : round % 3 == 1 ? 0x01u : 0x00u;
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random() & mask);
    input.back() = static_cast<std::uint8_t>(random());
    EXPECT_NO_THROW(harness(input));
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, RandomBytes,
                         testing::Values("none", "bf16+ef", "fp16", "int8", "int4", "sign",
                                         "sign:rms", "topk:0.05/0.1"));

}  // namespace
}  // namespace thinwire::compress
