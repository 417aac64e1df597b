#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parity.hpp"
#include "random_case.hpp"

/// GPU = CPU reference, byte for byte, in random buckets.
namespace thinwire::compress::test {
namespace {

/// "none" fills the sections of mixed buckets.
const std::vector<std::string> all_codecs{"sign",
                                          "sign",
                                          "sign:rms",
                                          "sign+noef",
                                          "int8",
                                          "int8+noef",
                                          "int4",
                                          "int4+noef",
                                          "bf16",
                                          "bf16+ef",
                                          "fp16",
                                          "fp16+noef",
                                          "none",
                                          "topk:0.01",
                                          "topk:0.01",
                                          "topk:0.1/0.02",
                                          "topk:0.001/0.01",
                                          "topk:0.6",
                                          "topk:0.05+noef"};

/// Runs steps on both and returns what differs, or nothing.
std::string compare(Gpu& gpu, std::uint32_t seed, const std::vector<std::string>& codecs) {
  RandomCase random{seed, codecs};
  const Plan& plan = random.plan();
  if (plan.plain()) return "";
  Parity parity{gpu, plan, random.misalignment, random.inv_scale, random.out_scale};
  for (int step = 0; step < 2; ++step) {
    std::vector<std::vector<std::byte>> gradients;
    for (int rank = 0; rank < plan.ranks(); ++rank) gradients.push_back(random.gradients());
    const std::string difference = parity.step(gradients);
    if (!difference.empty()) return fmt::format("seed {} {}", seed, difference);
  }
  return "";
}

class ParityBatch : public testing::TestWithParam<int> {};

TEST_P(ParityBatch, RandomCases_ZeroBytesDiffer) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  constexpr int cases = 640;
  for (int i = 0; i < cases; ++i) {
    const auto seed = static_cast<std::uint32_t>(GetParam() * cases + i);
    ASSERT_EQ(compare(gpu, seed, all_codecs), "");
  }
}

// 16 x 640 = 10,240 cases.
INSTANTIATE_TEST_SUITE_P(Gpu, ParityBatch, testing::Range(0, 16));

class ParityCodec : public testing::TestWithParam<std::string> {};

// Few enough to run under compute-sanitizer.
TEST_P(ParityCodec, FewCases_ZeroBytesDiffer) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  for (std::uint32_t seed = 0; seed < 6; ++seed) {
    ASSERT_EQ(compare(gpu, 900000 + seed, {GetParam()}), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, ParityCodec,
                         testing::Values("sign", "sign:rms", "int8", "int4", "bf16+ef", "fp16",
                                         "topk:0.02", "topk:0.3+noef"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace thinwire::compress::test
