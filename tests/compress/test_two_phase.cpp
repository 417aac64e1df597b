#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "plans.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::awkward_gradients_of_ranks;
using test::contiguous_spans;
using test::TwoPhase;
using test::with_ranks;

const std::vector<std::string> codecs_with_feedback{
    "bf16+ef", "fp16", "int8", "int4", "sign", "sign:rms", "topk:0.05", "topk:0.05/0.1"};

// mean(g) + mean(e) + r = output + mean(e') + r' for every element, to the rounding of the numbers
// that were added.
TEST(TwoPhase, Mass_ManySteps_IsConserved) {
  const std::vector<std::int64_t> lengths{3000, 0, 1, 700, 64, 5000};
  for (const std::string& codec : codecs_with_feedback) {
    for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
      for (const int ranks : {1, 2, 3, 4, 8}) {
        SCOPED_TRACE(fmt::format("{} ranks={} commit={}", codec, ranks, static_cast<int>(commit)));
        PlanSettings settings = with_ranks(ranks, 2);
        settings.commit = commit;
        const Plan plan{{parse_codec(codec)}, contiguous_spans(lengths), settings};
        TwoPhase world{plan};
        const float inv_scale = 0.25f;
        for (unsigned step = 0; step < 4; ++step) {
          const auto gradients = awkward_gradients_of_ranks(ranks, plan.elements(), step);
          const auto before = world.owed();
          std::vector<float> out;
          ASSERT_TRUE(world.allreduce(gradients, out, {.inv_scale = &inv_scale}).finite());
          world.commit();
          const auto after = world.owed();
          double worst = 0.0;
          for (std::size_t i = 0; i < out.size(); ++i) {
            double mean = 0.0;
            double size = std::fabs(before[i]) + std::fabs(after[i]) + std::fabs(out[i]);
            for (const auto& of_rank : gradients) {
              mean += static_cast<double>(of_rank[i]) * inv_scale / ranks;
              size += std::fabs(of_rank[i]);
            }
            const double lost = std::fabs(mean + before[i] - (out[i] + after[i]));
            worst = std::max(worst, lost / (size + 0x1p-120));  // denormals: 2^-149
          }
          EXPECT_LT(worst, 0x1p-20) << "step " << step;
        }
      }
    }
  }
}

}  // namespace
}  // namespace thinwire::compress
