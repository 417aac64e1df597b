#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "gradients.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;
using testing::random_values;

compress::Plan one_span_plan(const std::string& codec, std::int64_t n, int ranks) {
  return {{parse_codec(codec)}, {{.parameter = "w", .length = n}}, {.ranks = ranks}};
}

std::shared_ptr<WorkerPool> one_thread() { return std::make_shared<WorkerPool>(1); }

/// Runs one allreduce on every rank; returns outputs and worker residuals by rank.
struct Outcome {
  std::vector<std::vector<float>> outputs;
  std::vector<std::vector<float>> residuals;
};

Outcome allreduce_once(const std::string& codec, Algorithm algorithm,
                       const std::vector<std::vector<float>>& inputs) {
  const int ranks = static_cast<int>(inputs.size());
  Outcome outcome{inputs, std::vector<std::vector<float>>(inputs.size())};
  run_ranks(ranks, [&](Communicator& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    auto& gradients = outcome.outputs[rank];
    CompressedAllreduce allreduce{
        communicator, one_span_plan(codec, static_cast<std::int64_t>(gradients.size()), ranks),
        one_thread(), default_memory(), algorithm};
    allreduce.run(view_of(gradients));
    allreduce.end_step(true);
    for (const auto& residual : allreduce.state().export_worker()) {
      outcome.residuals[rank] = residual.values;
    }
  });
  return outcome;
}

void expect_same_bits_on_all_ranks(const Outcome& outcome) {
  for (const auto& output : outcome.outputs) {
    ASSERT_TRUE(testing::same_bits(output, outcome.outputs.front()));
  }
}

TEST(Sparse, Topk_MeanOfEverybodysSelection_ConservesMass) {
  for (const int ranks : {1, 2, 3, 4}) {
    const std::int64_t n = 5000;
    std::vector<std::vector<float>> inputs;
    for (int rank = 0; rank < ranks; ++rank) inputs.push_back(random_values(n, rank));
    const Outcome outcome = allreduce_once("topk:0.05", Algorithm::sparse, inputs);
    expect_same_bits_on_all_ranks(outcome);
    int sent = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      double before = 0;
      double kept = 0;
      for (std::size_t rank = 0; rank < inputs.size(); ++rank) {
        before += inputs[rank][i];
        kept += outcome.residuals[rank][i];
      }
      ASSERT_NEAR(before / ranks, outcome.outputs[0][i] + kept / ranks, 1e-5) << i;
      sent += outcome.outputs[0][i] != 0;
    }
    EXPECT_GE(sent, 250);
    EXPECT_LE(sent, 250 * ranks);
  }
}

TEST(Sparse, OtherCodec_IsRefusedByName) {
  run_ranks(2, [](Communicator& communicator) {
    try {
      CompressedAllreduce allreduce{communicator, one_span_plan("sign", 100, 2), one_thread(),
                                    default_memory(), Algorithm::sparse};
      ADD_FAILURE() << "sign went through the sparse algorithm";
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string{error.what()}.find("sign"), std::string::npos) << error.what();
    }
  });
}

TEST(Automatic, Topk_TakesSparseForTwoRanksAlone) {
  for (const int ranks : {2, 4}) {
    run_ranks(ranks, [&](Communicator& communicator) {
      auto gradients = random_values(100000, communicator.rank());
      CompressedAllreduce allreduce{communicator, one_span_plan("topk:0.01", 100000, ranks),
                                    one_thread(), default_memory()};
      allreduce.run(view_of(gradients));
      allreduce.end_step(true);
      EXPECT_EQ(allreduce.state().export_server().empty(), ranks == 2);
    });
  }
}

TEST(Summable, Bf16_IntegerInputs_GiveTheExactMean) {
  for (const int ranks : {1, 2, 4, 8}) {
    const std::int64_t n = 4099;
    std::vector<std::vector<float>> inputs;
    for (int rank = 0; rank < ranks; ++rank) {
      inputs.emplace_back(static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < inputs.back().size(); ++i) {
        inputs.back()[i] = static_cast<float>(static_cast<int>(i % 7) * (rank % 2 == 0 ? 1 : 3));
      }
    }
    const Outcome outcome = allreduce_once("bf16", Algorithm::summable, inputs);
    expect_same_bits_on_all_ranks(outcome);
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      const float mean = static_cast<float>(i % 7) * (ranks == 1 ? 1.0f : 2.0f);
      ASSERT_EQ(outcome.outputs[0][i], mean) << i;
    }
  }
}

TEST(Summable, NonFiniteOnOneRank_IsSeenByAll) {
  std::atomic<int> seen{0};
  run_ranks(3, [&](Communicator& communicator) {
    auto gradients = random_values(3000, communicator.rank());
    if (communicator.rank() == 1) gradients[2000] = INFINITY;
    CompressedAllreduce allreduce{communicator, one_span_plan("bf16", 3000, 3), one_thread(),
                                  default_memory(), Algorithm::summable};
    if (!allreduce.run(view_of(gradients)).finite()) ++seen;
    EXPECT_TRUE(std::isnan(gradients[2000]));
    EXPECT_TRUE(std::isfinite(gradients[0]));
  });
  EXPECT_EQ(seen, 3);
}

TEST(Summable, RanksInDifferentCalls_AreRefused) {
  std::atomic<int> raised{0};
  run_ranks(2, [&](Communicator& communicator) {
    auto gradients = random_values(500, communicator.rank());
    CompressedAllreduce first{communicator, one_span_plan("bf16", 500, 2), one_thread(),
                              default_memory(), Algorithm::summable};
    CompressedAllreduce second{communicator, one_span_plan("bf16", 500, 2), one_thread(),
                               default_memory(), Algorithm::summable};
    first.run(view_of(gradients));
    try {
      // Both objects have equal plans, but their call numbers differ here.
      if (communicator.rank() == 0) first.run(view_of(gradients));
      if (communicator.rank() == 1) second.run(view_of(gradients), nullptr, nullptr, Timeout{300});
    } catch (const Error&) {
      ++raised;
    }
  });
  EXPECT_EQ(raised, 2);
}

}  // namespace
}  // namespace thinwire::comm
