#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <map>

#include "gradients.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm {
namespace {

using compress::Commit;
using compress::NonFinite;
using compress::parse_codec;
using testing::random_gradients;
using testing::same_bits;
using testing::small_model;

TEST(Engine, PlainBuckets_ExactInputs_GiveTheExactMean) {
  const BucketLayout layout = make_buckets(small_model, 4000, one_codec(parse_codec("none")));
  ASSERT_GT(layout.buckets.size(), 1u);
  run_ranks(4, [&](Communicator& communicator) {
    Engine engine{communicator, layout};
    std::vector<std::vector<float>> gradients;
    for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
      gradients.emplace_back(static_cast<std::size_t>(layout.buckets[b].elements),
                             static_cast<float>(communicator.rank()));
      engine.submit(b, view_of(gradients[b]));
    }
    engine.end_step();
    for (const auto& bucket : gradients) {
      for (const float value : bucket) ASSERT_EQ(value, 1.5f);
    }
  });
}

TEST(Engine, ManyBuckets_OfDifferentCodecs_OverlapInOrder) {
  const BucketLayout layout = make_buckets(small_model, 2000, [](const Parameter& parameter) {
    return parse_codec(parameter.name == "fc1.weight" ? "sign"
                       : parameter.shape.size() > 1   ? "int4"
                                                      : "none");
  });
  run_ranks(3, [&](Communicator& communicator) {
    Engine engine{communicator, layout, {.chunks = 2}};
    for (int step = 0; step < 5; ++step) {
      std::vector<std::vector<float>> gradients;
      for (const Bucket& bucket : layout.buckets) {
        gradients.push_back(random_gradients(bucket.elements, communicator.rank(), step));
      }
      for (std::size_t b = 0; b < gradients.size(); ++b) engine.submit(b, view_of(gradients[b]));
      engine.wait(0);
      engine.end_step();
    }
    const CallMetrics metrics = engine.metrics();
    EXPECT_EQ(metrics.calls, 5 * layout.buckets.size());
    EXPECT_GT(metrics.plain_wire_bytes, metrics.wire_bytes);
    CallMetrics sum;
    for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
      EXPECT_EQ(engine.metrics(b).calls, 5u);
      sum += engine.metrics(b);
    }
    EXPECT_EQ(sum.wire_bytes, metrics.wire_bytes);
    EXPECT_EQ(sum.payload_bytes, metrics.payload_bytes);
    EXPECT_THROW(engine.metrics(layout.buckets.size()), InvalidArgument);
  });
}

TEST(Engine, Trace_OfAStep_HasEveryStageOfEveryChunkInOrder) {
  const BucketLayout layout = make_buckets(small_model, 2000, one_codec(parse_codec("int4")));
  const auto buckets = layout.buckets.size();
  run_ranks(2, [&](Communicator& communicator) {
    Engine engine{communicator, layout, {.chunks = 2}};
    const auto step = [&] {
      std::vector<std::vector<float>> gradients;
      for (std::size_t b = 0; b < buckets; ++b) {
        gradients.push_back(random_gradients(layout.buckets[b].elements, communicator.rank(), 0));
        engine.submit(b, view_of(gradients[b]));
      }
      engine.end_step();
    };
    step();
    engine.start_trace();
    step();
    const auto spans = engine.stop_trace();
    step();
    EXPECT_TRUE(engine.stop_trace().empty());

    std::map<std::pair<std::size_t, int>, std::vector<std::string_view>> names;
    std::map<std::size_t, TraceSpan> whole;
    for (const TraceSpan& span : spans) {
      EXPECT_LE(span.begin, span.end);
      names[{span.bucket, span.chunk}].push_back(span.name);
      if (span.chunk == TraceSpan::whole) whole[span.bucket] = span;
    }
    for (std::size_t b = 0; b < buckets; ++b) {
      EXPECT_EQ((names[{b, TraceSpan::whole}]), std::vector<std::string_view>{"bucket"});
      for (int chunk = 0; chunk < engine.plan(b).chunks(); ++chunk) {
        EXPECT_EQ((names[{b, chunk}]),
                  (std::vector<std::string_view>{"encode", "first exchange", "combine",
                                                 "second exchange", "decode"}));
      }
    }
    for (const TraceSpan& span : spans) {
      EXPECT_LE(whole[span.bucket].begin, span.begin);
      EXPECT_GE(whole[span.bucket].end, span.end);
    }
  });
}

TEST(Engine, SkippedStep_DoubleBuffered_LeavesResidualsBitwise) {
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec("sign")));
  const std::int64_t n = layout.buckets[0].elements;
  run_ranks(2, [&](Communicator& communicator) {
    Engine engine{communicator, layout, {.commit = Commit::double_buffered}};
    auto gradients = random_gradients(n, communicator.rank(), 0);
    engine.submit(0, view_of(gradients));
    EXPECT_TRUE(engine.end_step().committed);
    const auto worker = engine.export_worker();
    const auto server = engine.export_server();

    gradients = random_gradients(n, communicator.rank(), 1);
    engine.submit(0, view_of(gradients));
    EXPECT_FALSE(engine.end_step(/*found_inf=*/true).committed);

    gradients = random_gradients(n, communicator.rank(), 2);
    if (communicator.rank() == 1) gradients[5] = std::numeric_limits<float>::infinity();
    engine.submit(0, view_of(gradients));
    const StepReport report = engine.end_step();
    EXPECT_FALSE(report.finite);
    EXPECT_FALSE(report.committed);

    const auto worker_after = engine.export_worker();
    const auto server_after = engine.export_server();
    ASSERT_EQ(worker_after.size(), worker.size());
    ASSERT_EQ(server_after.size(), server.size());
    for (std::size_t i = 0; i < worker.size(); ++i) {
      EXPECT_TRUE(same_bits(worker_after[i].values, worker[i].values));
    }
    for (std::size_t i = 0; i < server.size(); ++i) {
      EXPECT_TRUE(same_bits(server_after[i].values, server[i].values));
    }
  });
}

TEST(Engine, NonFinite_Propagate_IsNaNInItsBlockOnEveryRank) {
  const std::vector<Parameter> one{{"w", {4096}}};
  const BucketLayout layout = make_buckets(one, 1 << 20, one_codec(parse_codec("sign")));
  run_ranks(4, [&](Communicator& communicator) {
    Engine engine{communicator, layout};
    auto gradients = random_gradients(4096, communicator.rank(), 0);
    if (communicator.rank() == 2) gradients[1500] = std::nanf("");
    engine.submit(0, view_of(gradients));
    EXPECT_FALSE(engine.end_step().finite);
    for (int i = 0; i < 4096; ++i) {
      ASSERT_EQ(std::isnan(gradients[static_cast<std::size_t>(i)]), i >= 1024 && i < 2048) << i;
    }
  });
}

TEST(Engine, NonFinite_Raise_ThrowsOnEveryRankAndTheNextStepWorks) {
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec("int4")));
  const std::int64_t n = layout.buckets[0].elements;
  run_ranks(2, [&](Communicator& communicator) {
    Engine engine{
        communicator, layout, {.commit = Commit::double_buffered, .non_finite = NonFinite::raise}};
    auto gradients = random_gradients(n, communicator.rank(), 0);
    if (communicator.rank() == 0) gradients[0] = -std::numeric_limits<float>::infinity();
    engine.submit(0, view_of(gradients));
    EXPECT_THROW(engine.end_step(), NonFiniteError);
    gradients = random_gradients(n, communicator.rank(), 1);
    engine.submit(0, view_of(gradients));
    EXPECT_TRUE(engine.end_step().committed);
  });
}

TEST(Engine, NonFinite_Zero_CountsAsFinite) {
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec("sign")));
  const std::int64_t n = layout.buckets[0].elements;
  run_ranks(2, [&](Communicator& communicator) {
    Engine engine{communicator, layout, {.non_finite = NonFinite::zero}};
    auto gradients = random_gradients(n, communicator.rank(), 0);
    gradients[0] = std::nanf("");
    engine.submit(0, view_of(gradients));
    EXPECT_TRUE(engine.end_step().finite);
    EXPECT_EQ(gradients[0], 0.0f);
  });
}

TEST(Engine, LossScale_PowerOfTwo_ScalesTheResultExactly) {
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec("sign")));
  const std::int64_t n = layout.buckets[0].elements;
  run_ranks(2, [&](Communicator& communicator) {
    Engine plain{communicator, layout};
    Engine scaled{communicator, layout, {.commit = Commit::double_buffered}};
    const float scale = 1024.0f;
    const float inverse = 1.0f / scale;
    for (int step = 0; step < 2; ++step) {
      auto gradients = random_gradients(n, communicator.rank(), step);
      auto loss_scaled = gradients;
      for (float& value : loss_scaled) value *= scale;
      plain.submit(0, view_of(gradients));
      plain.end_step();
      scaled.submit(0, view_of(loss_scaled), &inverse, &scale);
      scaled.end_step();
      for (float& value : gradients) value *= scale;
      EXPECT_TRUE(same_bits(gradients, loss_scaled));
    }
  });
}

TEST(Engine, DifferentCodecs_BetweenRanks_IsAMismatchNamingBothOnEveryRank) {
  std::atomic<int> raised{0};
  run_ranks(3, [&](Communicator& communicator) {
    const char* codec = communicator.rank() == 2 ? "int4" : "sign";
    const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec(codec)));
    try {
      Engine engine{communicator, layout};
    } catch (const MismatchError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("sign"), std::string::npos) << message;
      EXPECT_NE(message.find("int4"), std::string::npos) << message;
      ++raised;
    }
  });
  EXPECT_EQ(raised, 3);
}

TEST(Engine, DifferentSizes_BetweenRanks_IsAMismatchOnEveryRank) {
  std::atomic<int> raised{0};
  run_ranks(2, [&](Communicator& communicator) {
    const std::vector<Parameter> mine{{"w", {communicator.rank() == 0 ? 100 : 101}}};
    const BucketLayout layout = make_buckets(mine, 1 << 20, one_codec(parse_codec("sign")));
    EXPECT_THROW((Engine{communicator, layout}), MismatchError);
    ++raised;
  });
  EXPECT_EQ(raised, 2);
}

TEST(Engine, Submit_BadInput_NamesItAndLosesNothing) {
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec("sign")));
  const std::int64_t n = layout.buckets[0].elements;
  run_ranks(2, [&](Communicator& communicator) {
    Engine engine{communicator, layout};
    auto gradients = random_gradients(n, communicator.rank(), 0);
    auto small = random_gradients(n - 1, communicator.rank(), 0);
    EXPECT_THROW(engine.submit(0, view_of(small)), InvalidArgument);
    EXPECT_THROW(engine.submit(1, view_of(gradients)), InvalidArgument);
    TensorView other = view_of(gradients);
    other.dtype = DType::bf16;
    EXPECT_THROW(engine.submit(0, other), InvalidArgument);
    engine.submit(0, view_of(gradients));
    EXPECT_THROW(engine.submit(0, view_of(gradients)), InvalidArgument);
    EXPECT_TRUE(engine.end_step().committed);
  });
}

TEST(Engine, OneRankAborts_Others_RaiseAndKeepDoubleBufferedResiduals) {
  const BucketLayout layout = make_buckets(small_model, 1 << 20, one_codec(parse_codec("sign")));
  const std::int64_t n = layout.buckets[0].elements;
  std::atomic<int> raised{0};
  run_ranks(3, [&](Communicator& communicator) {
    Engine engine{communicator, layout, {.commit = Commit::double_buffered}};
    auto gradients = random_gradients(n, communicator.rank(), 0);
    engine.submit(0, view_of(gradients));
    engine.end_step();
    const auto before = engine.export_worker();
    if (communicator.rank() == 1) {
      engine.abort("gave up");
      return;
    }
    engine.submit(0, view_of(gradients));
    try {
      engine.end_step();
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, 1);
      ++raised;
    }
    const auto after = engine.export_worker();
    for (std::size_t i = 0; i < before.size(); ++i) {
      EXPECT_TRUE(same_bits(before[i].values, after[i].values));
    }
  });
  EXPECT_EQ(raised, 2);
}

}  // namespace
}  // namespace thinwire::comm
