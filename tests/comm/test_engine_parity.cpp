#include <gtest/gtest.h>

#include "gradients.hpp"
#include "ranks.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/compress/two_phase_reference.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;
using testing::random_gradients;
using testing::same_bits;
using testing::small_model;

compress::Plan plan_of(const Bucket& bucket, int ranks, int chunks) {
  return {bucket.sections, bucket.spans, {.ranks = ranks, .chunks = chunks}};
}

class EngineMatchesReference : public ::testing::TestWithParam<std::tuple<const char*, int, int>> {
};

// Three steps, so that residuals of both sides take part.
TEST_P(EngineMatchesReference, ThreeSteps_EveryRank_HoldsTheReferenceBits) {
  // Not a structured binding: clang 14 captures none.
  const auto& codec = std::get<0>(GetParam());
  const int ranks = std::get<1>(GetParam());
  const int chunks = std::get<2>(GetParam());
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec(codec)));
  const std::int64_t n = layout.buckets[0].elements;

  compress::TwoPhaseReference reference{plan_of(layout.buckets[0], ranks, chunks)};
  std::vector<std::vector<float>> expected;
  for (int step = 0; step < 3; ++step) {
    std::vector<std::vector<float>> inputs;
    std::vector<ConstTensorView> views;
    for (int rank = 0; rank < ranks; ++rank) inputs.push_back(random_gradients(n, rank, step));
    for (auto& input : inputs) views.push_back(view_of(input));
    expected.emplace_back(static_cast<std::size_t>(n));
    reference.allreduce(views, view_of(expected.back()),
                        {.sequence = static_cast<std::uint64_t>(step) + 1});
  }

  testing::on_ranks(ranks, [&](Communicator& communicator) {
    Engine engine{
        communicator, layout, {.chunks = chunks, .algorithm = Algorithm::two_phase, .threads = 1}};
    for (int step = 0; step < 3; ++step) {
      auto gradients = random_gradients(n, communicator.rank(), step);
      engine.submit(0, view_of(gradients));
      EXPECT_TRUE(engine.end_step().committed);
      EXPECT_TRUE(same_bits(gradients, expected[static_cast<std::size_t>(step)]))
          << codec << " rank " << communicator.rank() << " step " << step;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Codecs, EngineMatchesReference,
                         ::testing::Combine(::testing::Values("sign", "sign:rms", "int8", "int4",
                                                              "fp16", "bf16", "bf16+ef",
                                                              "topk:0.05"),
                                            ::testing::ValuesIn(testing::rank_counts()),
                                            ::testing::Values(1, 3)));

}  // namespace
}  // namespace thinwire::comm
