#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "block_rules.hpp"
#include "host/topk.hpp"
#include "host_parity.hpp"

namespace thinwire::compress {
namespace {

using test::contiguous_spans;
using test::expect_parity;
using test::ForcedTarget;
using test::with_ranks;

using Data = std::vector<std::vector<std::vector<float>>>;

std::vector<float> gaussian(std::int64_t n, unsigned seed) {
  std::mt19937 random{seed};
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

// Long enough to be sampled; the second step starts from residuals.
TEST(HostTopk, ConstantInput_TiesByLowerIndexLikeReference) {
  const std::vector<float> ones(300'000, 1.0f);
  expect_parity(test::simple_plan("topk:0.01", 300'000, 2), Data{{ones, ones}, {ones, ones}});
}

TEST(HostTopk, FewDistinctValues_SameBytesAsReference) {
  std::vector<float> values = gaussian(300'000, 1);
  for (float& value : values) value = std::nearbyint(value);
  expect_parity(test::simple_plan("topk:0.002", 300'000), Data{{values}, {values}});
}

TEST(HostTopk, FewerNonZerosThanEntries_SameBytesAsReference) {
  std::vector<float> values(300'000, 0.0f);
  for (std::size_t i = 0; i < values.size(); i += 777) values[i] = static_cast<float>(i);
  expect_parity(test::simple_plan("topk:0.01", 300'000, 2), Data{{values, values}});
}

TEST(HostTopk, ScaledParameters_SameBytesAsReference) {
  std::vector<std::int64_t> lengths{100'000, 3, 200'000, 64, 1, 50'000, 30'000};
  std::vector<float> values = gaussian(380'068, 2);
  std::size_t at = 0;
  float scale = 1.0f;
  for (const std::int64_t length : lengths) {
    for (std::int64_t i = 0; i < length; ++i) values[at++] *= scale;
    scale *= scale < 1.0f ? 50.0f : 0.01f;
  }
  const Plan plan{{parse_codec("topk:0.01")}, contiguous_spans(lengths), with_ranks(2)};
  expect_parity(plan, Data{{values, gaussian(380'068, 3)}, {gaussian(380'068, 4), values}});
}

/// One selection on its own, with a threshold that the test chooses.
struct Selected {
  std::vector<std::byte> run;
  std::vector<float> residual;
  std::uint32_t flags;

  bool operator==(const Selected&) const = default;
};

Selected select_from(const Plan& plan, const std::vector<float>& gradients,
                     const std::vector<float>& committed, std::uint32_t threshold, int threads) {
  const Run& run = plan.slot(0, 0).runs[0];
  WorkerPool pool{threads};
  std::vector<TopkStrip> strips;
  for (std::int64_t offset = 0; offset < run.elements; offset += topk_strip_elements) {
    strips.push_back(
        {&run.pieces[0], offset, std::min(topk_strip_elements, run.elements - offset)});
  }
  Selected result{std::vector<std::byte>(TopkParts{run.elements, run.entries}.bytes), committed, 0};
  const TopkResidual residual{result.residual.data(), result.residual.data(), false};
  TopkScratch scratch{strips.size(), run.elements,
                      topk_candidate_capacity(run.elements, run.entries), threads};
  const TopkGradients input{const_view_of(std::span{gradients}), 1.0f};
  TopkSelection selection{input,        residual,    strips,
                          run.elements, run.entries, plan.settings().non_finite,
                          scratch,      pool};
  result.flags = selection.write(threshold, result.run);
  return result;
}

// The threshold is a guess: too low (more candidates than there is room for), too high (none), on
// a heavy tie, or right, the result is the same.
TEST(HostTopk, AnyThreshold_SameResult) {
  const std::int64_t n = 400'000;
  const Plan plan = test::simple_plan("topk:0.001", n);
  auto tied = gaussian(n, 7);
  for (float& value : tied) value = std::nearbyint(4.0f * value);
  auto with_nan = gaussian(n, 8);
  with_nan[70'000] = std::numeric_limits<float>::quiet_NaN();
  with_nan[399'999] = std::numeric_limits<float>::infinity();
  auto with_dead_groups = gaussian(n, 9);
  for (std::size_t i = 0; i < with_dead_groups.size(); ++i) {
    if (i / 64 % 3 == 1) with_dead_groups[i] = 0.0f;
  }
  const auto residual = gaussian(n, 10);
  for (const auto& gradients : {gaussian(n, 6), tied, with_nan, with_dead_groups}) {
    for (const auto& committed : {std::vector<float>(gradients.size(), 0.0f), residual}) {
      const Selected expected = select_from(plan, gradients, committed, 0, 1);
      for (const float threshold : {0x1p-149f, 0.5f, 1.0f, 3.0f, 3.3f, 12.0f, 13.0f, 1e30f}) {
        for (const int threads : {1, 3}) {
          EXPECT_TRUE(select_from(plan, gradients, committed,
                                  std::bit_cast<std::uint32_t>(threshold), threads) == expected)
              << threshold;
        }
      }
    }
  }
}

}  // namespace
}  // namespace thinwire::compress
