#include <gtest/gtest.h>

#include <cstring>

#include "gradients.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/fault_injection.hpp"
#include "thinwire/comm/sharded.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;
using testing::random_values;

/// Uneven: an empty shard, a tiny one, one that ends within a block.
std::vector<std::int64_t> uneven_boundaries(int ranks, std::int64_t n) {
  std::vector<std::int64_t> boundaries{0};
  for (int rank = 1; rank < ranks; ++rank) {
    boundaries.push_back(rank == 1 ? 0 : rank == 2 ? 7 : n * rank / ranks + 13);
  }
  boundaries.push_back(n);
  return boundaries;
}

class ReduceScatter : public ::testing::TestWithParam<std::tuple<const char*, int>> {};

// One rank of a real reduce-scatter against the coder's own verbs, all ranks in one place.
TEST_P(ReduceScatter, UnevenBoundaries_EqualTheReferenceBits) {
  // Not a structured binding: clang 14 captures none.
  const char* const codec = std::get<0>(GetParam());
  const int ranks = std::get<1>(GetParam());
  const std::int64_t n = 10000;
  const auto boundaries = uneven_boundaries(ranks, n);
  const compress::Plan plan{{parse_codec(codec)},
                            {{.parameter = "a", .length = 6000},
                             {.parameter = "b", .source_offset = 6000, .length = 4000}},
                            {.ranks = ranks,
                             .operation = compress::Operation::reduce_scatter,
                             .chunks = 2,
                             .boundaries = boundaries}};
  run_ranks(ranks, [&](Communicator& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    const auto mine = static_cast<std::size_t>(boundaries[rank + 1] - boundaries[rank]);
    std::vector<float> out(mine);
    const auto gradients = random_values(n, communicator.rank());
    CompressedReduceScatter reduce_scatter{communicator, plan, std::make_shared<WorkerPool>(1),
                                           default_memory()};
    reduce_scatter.run(const_view_of(gradients), view_of(out));

    std::vector<float> expected(mine);
    for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
      const std::size_t slot = plan.slot_bytes(chunk, compress::Phase::reduce);
      std::vector<std::byte> received(slot * static_cast<std::size_t>(ranks));
      for (int from = 0; from < ranks; ++from) {
        std::vector<std::byte> slots(received.size());
        compress::State state{plan, from, default_memory()};
        compress::make_reference_coder(plan)->encode(chunk, const_view_of(random_values(n, from)),
                                                     state, {.sequence = 1}, slots);
        std::memcpy(received.data() + static_cast<std::size_t>(from) * slot,
                    slots.data() + rank * slot, slot);
      }
      compress::make_reference_coder(plan)->reduce(chunk, received, communicator.rank(),
                                                   {.sequence = 1}, view_of(expected),
                                                   boundaries[rank]);
    }
    EXPECT_TRUE(testing::same_bits(out, expected));
  });
}

INSTANTIATE_TEST_SUITE_P(Codecs, ReduceScatter,
                         ::testing::Combine(::testing::Values("sign", "int8", "int4+noef", "bf16",
                                                              "topk:0.1"),
                                            ::testing::Values(1, 2, 3, 4)));

TEST(AllGather, UnevenShards_Bf16_AreEveryRanksRoundedValues) {
  for (const int ranks : {1, 2, 3, 4}) {
    const std::int64_t n = 5000;
    const auto boundaries = uneven_boundaries(ranks, n);
    const auto whole = random_values(n, 42);
    run_ranks(ranks, [&](Communicator& communicator) {
      const auto rank = static_cast<std::size_t>(communicator.rank());
      CompressedAllGather all_gather{
          communicator,    parse_codec("bf16"), {{.parameter = "w", .length = n}},
          DType::f32,      boundaries,          std::make_shared<WorkerPool>(1),
          default_memory()};
      const std::vector<float> mine(whole.begin() + boundaries[rank],
                                    whole.begin() + boundaries[rank + 1]);
      std::vector<float> out(static_cast<std::size_t>(n));
      for (int call = 0; call < 2; ++call) {
        EXPECT_TRUE(all_gather.run(const_view_of(mine), view_of(out)).finite());
        for (std::size_t i = 0; i < out.size(); ++i) {
          ASSERT_EQ(out[i], from_bf16_bits(bf16_bits(whole[i]))) << i;
        }
      }
    });
  }
}

TEST(AllGather, CorruptShard_BlamesItsOwner) {
  constexpr int owner = 2;
  run_ranks(3, [&](Communicator& inner) {
    const auto comm = inject_faults(
        inner, {{.kind = Fault::Kind::corrupt, .rank = owner, .operation = "all_gather"}});
    CompressedAllGather gather{
        *comm,           parse_codec("bf16"), {{.parameter = "a", .length = 300}},
        DType::f32,      {0, 100, 200, 300},  std::make_shared<WorkerPool>(1),
        default_memory()};
    const auto mine = random_values(100, inner.rank());
    std::vector<float> all(300);
    try {
      gather.run(const_view_of(mine), view_of(all));
      EXPECT_EQ(inner.rank(), owner) << "no error";
    } catch (const FormatError& error) {
      EXPECT_EQ(error.peer, owner) << error.what();
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, owner) << error.what();
    }
  });
}

TEST(AllGather, CodecWithResidual_IsRefused) {
  run_ranks(1, [](Communicator& communicator) {
    EXPECT_THROW((CompressedAllGather{communicator,
                                      parse_codec("int8"),
                                      {{.parameter = "w", .length = 10}},
                                      DType::f32,
                                      {0, 10},
                                      std::make_shared<WorkerPool>(1),
                                      default_memory()}),
                 InvalidArgument);
  });
}

/// What three operations in turn give, twice; with lanes of their own, or with shared ones.
std::vector<float> three_in_turn(Communicator& communicator, SharedLanes* lanes) {
  const std::int64_t part = 700;
  const std::int64_t n = part * communicator.size();
  std::vector<std::int64_t> boundaries;
  for (int rank = 0; rank <= communicator.size(); ++rank) boundaries.push_back(rank * part);
  const auto pool = std::make_shared<WorkerPool>(1);
  const auto codec = parse_codec("int8+noef");
  const std::vector<compress::Span> spans{{.parameter = "w", .length = n}};
  const compress::Plan plan{{codec}, spans, {.ranks = communicator.size()}};
  auto allreduce = std::make_unique<CompressedAllreduce>(communicator, plan, pool, default_memory(),
                                                         Algorithm::automatic, lanes);
  CompressedReduceScatter reduce_scatter{communicator,
                                         {{codec},
                                          spans,
                                          {.ranks = communicator.size(),
                                           .operation = compress::Operation::reduce_scatter,
                                           .boundaries = boundaries}},
                                         pool,
                                         default_memory(),
                                         lanes};
  CompressedAllGather all_gather{communicator,     codec, spans, DType::f32, boundaries, pool,
                                 default_memory(), lanes};
  if (lanes != nullptr) lanes->reset();  // operations keep what they share
  std::vector<float> all;
  auto values = random_values(n, communicator.rank());
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<float> mine(static_cast<std::size_t>(part));
    reduce_scatter.run(const_view_of(values), view_of(mine));
    reduce_scatter.end_step(true);
    all_gather.run(const_view_of(mine), view_of(values));
    all.insert(all.end(), values.begin(), values.end());
    if (turn == 1) break;
    allreduce->run(view_of(values));
    allreduce->end_step(true);
    allreduce.reset();  // the others go on
  }
  return all;
}

TEST(SharedLanes, OperationsInTurn_GiveTheBitsOfOwnLanes) {
  for (const int ranks : {1, 2, 3}) {
    run_ranks(ranks, [&](Communicator& communicator) {
      SharedLanes lanes;
      EXPECT_TRUE(testing::same_bits(three_in_turn(communicator, nullptr),
                                     three_in_turn(communicator, &lanes)));
    });
  }
}

double sum_of(const std::vector<compress::Residual>& residuals) {
  double sum = 0;
  for (const auto& residual : residuals) {
    for (const float value : residual.values) sum += value;
  }
  return sum;
}

// Another bucketing gives blocks other owners: every server residual must arrive with its block.
TEST(Engine, TakeOver_OtherBuckets_MovesEveryResidual) {
  const std::vector<Parameter> parameters{{"a", {5000}}, {"b", {300}}, {"c", {3000}}};
  const std::vector<Parameter> reversed{{"c", {3000}}, {"b", {300}}, {"a", {5000}}};
  const auto rule = one_codec(parse_codec("sign"));
  std::vector<double> before(3);
  std::vector<double> after(3);
  run_ranks(3, [&](Communicator& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    Engine first{communicator, make_buckets(parameters, 1 << 20, rule)};
    auto gradients = random_values(8300, communicator.rank());
    first.submit(0, view_of(gradients));
    first.end_step();
    Engine second{communicator, make_buckets(reversed, 14000, rule), {.chunks = 2}};
    second.take_over(first);
    before[rank] = sum_of(first.export_server());
    after[rank] = sum_of(second.export_server());
    EXPECT_NEAR(sum_of(first.export_worker()), sum_of(second.export_worker()), 1e-3);
  });
  EXPECT_NE(before[0], 0.0);
  EXPECT_NEAR(before[0] + before[1] + before[2], after[0] + after[1] + after[2], 1e-3);
}

}  // namespace
}  // namespace thinwire::comm
