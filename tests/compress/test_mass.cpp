#include <gtest/gtest.h>

#include <cmath>

#include "plans.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::awkward_gradients_of_ranks;
using test::contiguous_spans;
using test::TwoPhase;
using test::with_ranks;

// mean(g) + mean(e) + r = output + mean(e') + r' for every element, to the rounding of the numbers
// that were added.
TEST(Mass, ManySteps_IsConserved) {
  const std::vector<std::int64_t> lengths{3000, 0, 1, 700, 64, 5000};
  for (const std::string& codec : test::codecs_with_feedback) {
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
            worst = std::max(worst, lost / (size + 0x1p-120));  // denormals: steps of 2^-149
          }
          EXPECT_LT(worst, 0x1p-20) << "step " << step;
        }
      }
    }
  }
}

// P = mean(e) + r is conserved when N ranks become M: each of M workers takes up the mean of the
// old worker residuals, each new owner the server residual of its blocks.
TEST(Mass, FromThreeRanksToTwo_IsConserved) {
  for (const std::string codec : {"sign", "int4", "topk:0.05"}) {
    SCOPED_TRACE(codec);
    const auto spans = contiguous_spans({3000, 77});
    const Plan before{{parse_codec(codec)}, spans, with_ranks(3)};
    TwoPhase three{before};
    std::vector<float> out;
    three.allreduce(awkward_gradients_of_ranks(3, 3077, 1), out);
    three.commit();

    const Plan after{{parse_codec(codec)}, spans, with_ranks(2)};
    TwoPhase two{after};
    std::vector<std::vector<Residual>> workers;
    for (int rank = 0; rank < 3; ++rank) workers.push_back(three.state(rank).export_worker());
    std::vector<Residual> mean = workers[0];
    for (std::size_t s = 0; s < mean.size(); ++s) {
      for (std::size_t i = 0; i < mean[s].values.size(); ++i) {
        double sum = 0.0;
        for (const auto& of_rank : workers) sum += static_cast<double>(of_rank[s].values[i]);
        mean[s].values[i] = static_cast<float>(sum / 3);
      }
    }
    std::int64_t taken = 0;
    for (int rank = 0; rank < 2; ++rank) {
      EXPECT_EQ(two.state(rank).import_worker(mean), 3077);
      for (int old = 0; old < 3; ++old) {
        taken += two.state(rank).import_server(three.state(old).export_server());
      }
    }
    EXPECT_EQ(taken, 3077);
    const auto expected = three.owed();
    const auto found = two.owed();
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], expected[i], 0x1p-22 * std::fabs(expected[i]) + 0x1p-33) << i;
    }
  }
}

TEST(Mass, ReduceScatter_UnevenBoundaries_GivesTheMeanOfWhatWasSent) {
  PlanSettings settings = with_ranks(3, 2);
  settings.operation = Operation::reduce_scatter;
  settings.boundaries = {0, 100, 100, 4000};
  for (const std::string codec : {"int8", "sign", "topk:0.3"}) {
    SCOPED_TRACE(codec);
    const Plan plan{{parse_codec(codec)}, contiguous_spans({50, 3950}), settings};
    TwoPhase world{plan};
    const auto gradients = awkward_gradients_of_ranks(3, 4000, 5);
    for (int rank = 0; rank < 3; ++rank) {
      world.encode(rank, const_view_of(gradients[static_cast<std::size_t>(rank)]));
    }
    std::vector<float> out(4000, 0.0f);
    const float out_scale = 3.0f;
    for (int shard = 0; shard < 3; ++shard) {
      const std::int64_t from = settings.boundaries[static_cast<std::size_t>(shard)];
      const std::int64_t to = settings.boundaries[static_cast<std::size_t>(shard) + 1];
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
        const Verdict verdict = world.coder(shard).reduce(
            chunk, world.exchange(shard, chunk), shard, {.sequence = 0, .out_scale = &out_scale},
            view_of(std::span{out}.subspan(static_cast<std::size_t>(from),
                                           static_cast<std::size_t>(to - from))),
            from);
        EXPECT_TRUE(verdict.finite());
      }
    }
    world.commit();
    // 3 * mean = sum of what was sent = sum of (g - e').
    std::vector<std::vector<float>> kept;
    for (int rank = 0; rank < 3; ++rank) {
      kept.emplace_back();
      for (const Residual& residual : world.state(rank).export_worker()) {
        kept.back().insert(kept.back().end(), residual.values.begin(), residual.values.end());
      }
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      double expected = 0.0;
      double size = 0.0;
      for (std::size_t rank = 0; rank < 3; ++rank) {
        expected += static_cast<double>(gradients[rank][i]) - static_cast<double>(kept[rank][i]);
        size += std::fabs(gradients[rank][i]) + std::fabs(kept[rank][i]);
      }
      ASSERT_NEAR(out[i], expected, 0x1p-20 * size + 0x1p-140) << i;
    }
  }
}

}  // namespace
}  // namespace thinwire::compress
