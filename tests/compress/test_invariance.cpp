#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <memory>
#include <thread>

#include "plans.hpp"
#include "two_phase.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace thinwire::compress {
namespace {

using test::awkward_gradients;
using test::awkward_gradients_of_ranks;
using test::contiguous_spans;
using test::TwoPhase;
using test::with_ranks;

const std::vector<std::string> block_codecs{"bf16", "bf16+ef", "fp16",      "int8",
                                            "int4", "sign",    "sign+noef", "sign:rms"};

/// (parameter, element) -> bits.
using ByElement = std::map<std::pair<std::string, std::int64_t>, std::uint32_t>;

void add(ByElement& to, const std::vector<Residual>& residuals) {
  for (const Residual& residual : residuals) {
    for (std::size_t i = 0; i < residual.values.size(); ++i) {
      to[{residual.parameter, residual.offset + static_cast<std::int64_t>(i)}] =
          std::bit_cast<std::uint32_t>(residual.values[i]);
    }
  }
}

/// Everything that a run of some steps leaves behind, by element and not by place.
struct Trace {
  std::vector<ByElement> worker;  // by rank
  ByElement server;
  ByElement out;

  bool operator==(const Trace&) const = default;
};

/// Runs steps on gradients that are keyed by parameter, whatever bucket it is in.
Trace trace(const std::vector<Plan>& buckets, int steps) {
  Trace result;
  result.worker.resize(static_cast<std::size_t>(buckets.front().ranks()));
  for (const Plan& plan : buckets) {
    TwoPhase world{plan};
    std::vector<float> out;
    for (int step = 0; step < steps; ++step) {
      std::vector<std::vector<float>> gradients(
          static_cast<std::size_t>(plan.ranks()),
          std::vector<float>(static_cast<std::size_t>(plan.source_extent())));
      for (std::size_t rank = 0; rank < gradients.size(); ++rank) {
        for (const Span& span : plan.spans()) {
          const auto seed = static_cast<unsigned>(std::hash<std::string>{}(span.parameter)) +
                            100u * static_cast<unsigned>(step) + static_cast<unsigned>(rank);
          const auto values = awkward_gradients(span.length, seed);
          std::copy(values.begin(), values.end(), gradients[rank].begin() + span.source_offset);
        }
      }
      world.allreduce(gradients, out);
      world.commit();
    }
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      add(result.worker[static_cast<std::size_t>(rank)], world.state(rank).export_worker());
      add(result.server, world.state(rank).export_server());
    }
    for (const Span& span : plan.spans()) {
      const auto first = out.begin() + span.source_offset;
      add(result.out, {{span.parameter, 0, {first, first + span.length}}});
    }
  }
  return result;
}

TEST(Invariance, Chunks_OneToSeven_GiveEqualBitsAndResiduals) {
  for (const std::string& codec : block_codecs) {
    SCOPED_TRACE(codec);
    const auto with_chunks = [&](int chunks) {
      std::vector<Plan> plans;
      plans.emplace_back(std::vector{parse_codec(codec)}, contiguous_spans({9000, 3, 5000}),
                         with_ranks(3, chunks));
      return trace(plans, 3);
    };
    const Trace whole = with_chunks(1);
    for (int chunks = 2; chunks <= 7; ++chunks) EXPECT_TRUE(with_chunks(chunks) == whole) << chunks;
  }
}

// Chunks of one call may be coded by several threads at once.
TEST(Invariance, Chunks_CodedConcurrently_GiveTheBitsOfOneThread) {
  constexpr int ranks = 2;
  PlanSettings settings = with_ranks(ranks, 6);
  settings.commit = Commit::double_buffered;
  const Plan plan{{parse_codec("int4")}, contiguous_spans({20000, 77}), settings};
  const auto gradients = awkward_gradients_of_ranks(ranks, plan.elements(), 6);
  const auto pool = std::make_shared<WorkerPool>(2);
  for (const auto& make_coder : std::vector<test::CoderFactory>{
           make_reference_coder, [&](const Plan& of) { return make_host_coder(of, pool); }}) {
    TwoPhase alone{plan, make_coder};
    std::vector<float> expected;
    alone.allreduce(gradients, expected);
    alone.commit();

    TwoPhase together{plan, make_coder};
    const CallState call{.sequence = 1};
    const auto in_threads = [&](auto body) {
      std::vector<std::thread> threads;
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) threads.emplace_back(body, chunk);
      for (std::thread& thread : threads) thread.join();
    };
    for (int rank = 0; rank < ranks; ++rank) {
      in_threads([&](int chunk) {
        together.coder(rank).encode(chunk, const_view_of(gradients[static_cast<std::size_t>(rank)]),
                                    together.state(rank), call, together.sent(rank, chunk));
      });
    }
    for (int rank = 0; rank < ranks; ++rank) {
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) together.exchange(rank, chunk);
      in_threads([&](int chunk) {
        const std::size_t bytes = plan.slot_bytes(chunk, Phase::gather);
        together.coder(rank).reduce_encode(
            chunk, together.received(chunk), together.state(rank), call,
            together.reduced(chunk).subspan(static_cast<std::size_t>(rank) * bytes, bytes));
      });
    }
    together.commit();
    std::vector<float> found(expected.size());
    in_threads([&](int chunk) {
      together.coder(0).decode(chunk, together.reduced(chunk), call, view_of(found));
    });
    EXPECT_EQ(test::bits(found), test::bits(expected));
    EXPECT_EQ(together.owed(), alone.owed());
  }
}

// One bucket of everything, a bucket for each parameter, and another order.
TEST(Invariance, Buckets_AnyLayout_GiveEqualBitsAndResiduals) {
  const auto spans = contiguous_spans({5000, 1, 1024, 300, 64, 2049});
  for (const std::string& codec : block_codecs) {
    SCOPED_TRACE(codec);
    const std::vector sections{parse_codec(codec)};
    std::vector<Plan> one;
    one.emplace_back(sections, spans, with_ranks(3));
    std::vector<Plan> each;
    for (Span span : spans) {
      span.source_offset = 5;  // with a gap in front
      each.emplace_back(sections, std::vector{span}, with_ranks(3, 2));
    }
    std::vector<Plan> reversed;
    reversed.emplace_back(sections, std::vector<Span>{spans.rbegin(), spans.rend()}, with_ranks(3));
    const Trace expected = trace(one, 3);
    EXPECT_TRUE(trace(each, 3) == expected);
    EXPECT_TRUE(trace(reversed, 3) == expected);
  }
}

TEST(Invariance, Decode_EveryRank_GivesTheSameBits) {
  for (const std::string& codec : test::codecs_with_feedback) {
    const Plan plan = test::simple_plan(codec, 5000, 4);
    TwoPhase world{plan};
    std::vector<float> first;
    world.allreduce(awkward_gradients_of_ranks(4, 5000, 7), first);
    for (int rank = 1; rank < 4; ++rank) {
      std::vector<float> out(5000);
      world.decode(rank, view_of(out));
      EXPECT_EQ(test::bits(out), test::bits(first)) << codec << " rank " << rank;
    }
  }
}

TEST(Invariance, OddSizes_EveryCodec_WriteEverySpanAndNothingElse) {
  for (const std::string codec : {"bf16", "fp16", "int8", "int4", "sign", "topk:0.5"}) {
    for (const std::int64_t n : {0, 1, 63, 64, 65, 4095, 4096, 4097}) {
      for (const int ranks : {1, 2, 3, 8}) {
        SCOPED_TRACE(fmt::format("{} n={} ranks={}", codec, n, ranks));
        auto spans = contiguous_spans({n, 10});
        spans[0].source_offset = 3;
        spans[1].source_offset = n + 7;
        const Plan plan{{parse_codec(codec)}, spans, with_ranks(ranks, 2)};
        TwoPhase world{plan};
        std::vector<std::vector<float>> gradients(
            static_cast<std::size_t>(ranks),
            std::vector<float>(static_cast<std::size_t>(n) + 17, 2.0f));
        std::vector<float> out(gradients[0].size(), -77.0f);
        EXPECT_TRUE(world.allreduce(gradients, out).finite());
        for (std::size_t i = 0; i < out.size(); ++i) {
          const auto at = static_cast<std::int64_t>(i);
          const bool inside = (at >= 3 && at < n + 3) || at >= n + 7;
          const float value = out[i];
          ASSERT_TRUE(inside ? value == 2.0f || (codec == "topk:0.5" && value == 0.0f)
                             : value == -77.0f)
              << i << " is " << value;
        }
      }
    }
  }
}

/// Encodes and decodes one rank's numbers as T, at an address that is only aligned to T.
template <typename T>
void round_trip(DType dtype) {
  PlanSettings settings = with_ranks(1);
  settings.dtype = dtype;
  const Plan plan{{parse_codec("sign")}, contiguous_spans({100}), settings};
  TwoPhase world{plan};
  std::vector<T> memory(101);
  for (std::size_t i = 0; i < 100; ++i) memory[i + 1] = from_float<T>(i % 2 == 0 ? 1.5f : -1.0f);
  world.encode(0, {memory.data() + 1, 100, dtype});
  world.reduce_encode(0);
  const float out_scale = 1.0f + 0x1p-9f;  // 1.25 * out_scale is no bf16 and rounds to 1.25
  world.decode(0, {memory.data() + 1, 100, dtype}, {.out_scale = &out_scale});
  const float expected = to_float(from_float<T>(1.25f * out_scale));
  for (std::size_t i = 0; i < 100; ++i) {
    ASSERT_EQ(to_float(memory[i + 1]), i % 2 == 0 ? expected : -expected);
  }
}

TEST(Invariance, Dtypes_UnalignedTensors_AreRoundedOnce) {
  round_trip<float>(DType::f32);
  round_trip<Half>(DType::f16);
  round_trip<BFloat16>(DType::bf16);
}

#if defined(__x86_64__)
// Denormals of every codec, with the caller's modes set to flush them and to round upwards.
TEST(Invariance, CallerFlushesDenormals_ChangesNoBitAndIsRestored) {
  for (const std::string& codec : test::codecs_with_feedback) {
    SCOPED_TRACE(codec);
    const Plan plan = test::simple_plan(codec, 3000, 2);
    auto gradients = awkward_gradients_of_ranks(2, 3000, 3);
    for (auto& of_rank : gradients) {
      for (float& value : of_rank) value *= 0x1p-120f;
    }
    const auto run = [&] {
      TwoPhase world{plan};
      std::vector<float> out;
      world.allreduce(gradients, out);
      world.commit();
      auto result = test::bits(out);
      const auto residual = test::bits(world.state(1).export_worker().at(0).values);
      result.insert(result.end(), residual.begin(), residual.end());
      return result;
    };
    const auto expected = run();
    const unsigned before = _mm_getcsr();
    const unsigned flushing = before | 0x8040u | 0x4000u;  // FTZ, DAZ, towards +Inf
    _mm_setcsr(flushing);
    const auto found = run();
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    EXPECT_EQ(found, expected);
    EXPECT_EQ(after & 0xFFC0u, flushing & 0xFFC0u);
  }
}
#endif

}  // namespace
}  // namespace thinwire::compress
