#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>
#include <tuple>

#include "gradients.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/fault_injection.hpp"
#include "thinwire/comm/sharded.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm {
namespace {

using compress::Commit;
using compress::parse_codec;
using testing::random_gradients;
using testing::random_values;
using testing::same_bits;
using Kind = Fault::Kind;
using Phase = Fault::Phase;

constexpr int ranks = 3;
constexpr int faulty = 1;
constexpr Timeout limit{300};

std::map<std::string, std::vector<float>> by_parameter(
    const std::vector<compress::Residual>& residuals) {
  std::map<std::string, std::vector<float>> map;
  for (const auto& residual : residuals) {
    auto& values = map[residual.parameter];
    values.insert(values.end(), residual.values.begin(), residual.values.end());
  }
  return map;
}

/// What a survivor must hold: `before`, and `gradient` too once that was encoded in place.
void expect_nothing_lost(const std::vector<float>& before, const float* gradient,
                         const std::vector<float>& after, Commit commit, const std::string& what) {
  ASSERT_EQ(before.size(), after.size()) << what;
  if (same_bits(before, after)) return;
  ASSERT_EQ(commit, Commit::in_place) << what << ": a double-buffered residual changed";
  for (std::size_t i = 0; i < before.size(); ++i) {
    ASSERT_NEAR(after[i], before[i] + gradient[i], 1e-4) << what << " element " << i;
  }
}

class EngineFault
    : public ::testing::TestWithParam<std::tuple<Kind, const char*, Phase, int, Commit>> {};

// In the second step of two buckets, a rank fails at one of its exchanges.
TEST_P(EngineFault, InAnyPhase_IsNamedAndNoResidualIsLost) {
  const auto [kind, operation, phase, bucket, commit] = GetParam();
  const Fault fault{.kind = kind,
                    .rank = faulty,
                    .operation = operation,
                    .call = 2 + bucket,
                    .phase = phase,
                    .duration = 3 * limit};
  const std::vector<Parameter> parameters{{"a", {3000}}, {"b", {2000}}};
  run_ranks(ranks, [&, commit = commit](Communicator& inner) {
    const auto comm = inject_faults(inner, {fault});
    const auto layout = make_buckets(parameters, 12000, one_codec(parse_codec("sign")));
    ASSERT_EQ(layout.buckets.size(), 2u);
    Engine engine{*comm, layout, {.commit = commit, .timeout = limit}};
    const auto step = [&](int number) {
      std::vector<std::vector<float>> gradients;
      for (std::size_t i = 0; i < 2; ++i) {
        gradients.push_back(random_gradients(layout.buckets[i].elements, inner.rank(), number));
      }
      for (std::size_t i = 0; i < 2; ++i) engine.submit(i, view_of(gradients[i]));
      engine.end_step();
    };
    step(1);
    // A rank that fails after the second step's last exchange is missed in the third one.
    for (int number = 2; number <= 3; ++number) {
      const auto before = by_parameter(engine.export_worker());
      try {
        step(number);
      } catch (const TransportError& error) {
        if (inner.rank() != faulty) {
          EXPECT_EQ(error.peer, faulty) << error.what();
        }
        if (number == 2 && inner.rank() != faulty) {  // in the third step the end may fail
          EXPECT_THAT(error.what(), ::testing::HasSubstr("bucket "));
        }
        const auto after = by_parameter(engine.export_worker());
        for (std::size_t i = 0; i < 2; ++i) {
          const auto& name = layout.buckets[i].spans.front().parameter;
          const auto gradients = random_gradients(layout.buckets[i].elements, inner.rank(), number);
          expect_nothing_lost(before.at(name), gradients.data(), after.at(name), commit,
                              "rank " + std::to_string(inner.rank()) + " parameter " + name);
        }
        return;
      }
    }
    ADD_FAILURE() << "rank " << inner.rank() << " saw no error";
  });
}

INSTANTIATE_TEST_SUITE_P(
    Kills, EngineFault,
    ::testing::Combine(::testing::Values(Kind::kill), ::testing::Values("all_to_all", "all_gather"),
                       ::testing::Values(Phase::post, Phase::under_way, Phase::done),
                       ::testing::Values(0, 1),
                       ::testing::Values(Commit::in_place, Commit::double_buffered)));
INSTANTIATE_TEST_SUITE_P(Stalls, EngineFault,
                         ::testing::Combine(::testing::Values(Kind::stall),
                                            ::testing::Values("all_to_all", "all_gather"),
                                            ::testing::Values(Phase::under_way),
                                            ::testing::Values(0),
                                            ::testing::Values(Commit::in_place)));

// A bucket that was submitted and not begun must not take up what the step before delivered.
TEST(Engine, FailureWithABucketNotBegun_LeavesItsResidual) {
  run_ranks(2, [](Communicator& inner) {
    const auto comm = inject_faults(inner, {{.kind = Kind::kill,
                                             .rank = 1,
                                             .operation = "all_to_all",
                                             .call = 2,
                                             .phase = Phase::post}});
    const std::vector<Parameter> parameters{{"a", {3000}}, {"b", {2000}}};
    const auto layout = make_buckets(parameters, 12000, one_codec(parse_codec("sign")));
    Engine engine{*comm, layout, {.timeout = limit}};
    auto first = random_gradients(layout.buckets[0].elements, inner.rank(), 1);
    auto second = random_gradients(layout.buckets[1].elements, inner.rank(), 1);
    engine.submit(0, view_of(first));
    engine.submit(1, view_of(second));
    engine.end_step();
    const auto before = by_parameter(engine.export_worker());
    engine.submit(0, view_of(first));
    EXPECT_THROW(engine.end_step(), TransportError);
    const auto& name = layout.buckets[1].spans.front().parameter;
    EXPECT_TRUE(same_bits(by_parameter(engine.export_worker()).at(name), before.at(name)));
  });
}

TEST(Engine, CorruptPayload_BlamesWhoSentIt) {
  run_ranks(ranks, [](Communicator& inner) {
    const auto comm =
        inject_faults(inner, {{.kind = Kind::corrupt, .rank = faulty, .operation = "all_to_all"}});
    const auto layout = make_buckets(std::vector<Parameter>{{"a", {5000}}}, 1 << 20,
                                     one_codec(parse_codec("int4")));
    Engine engine{*comm, layout, {.timeout = Timeout{5000}}};
    auto gradients = random_gradients(5000, inner.rank(), 1);
    engine.submit(0, view_of(gradients));
    try {
      engine.end_step();
      ADD_FAILURE() << "rank " << inner.rank() << " saw no error";
    } catch (const FormatError& error) {  // who received it
      EXPECT_EQ(error.peer, faulty) << error.what();
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, faulty) << error.what();
    }
  });
}

TEST(Engine, LongestTimeout_IsNotOverAtOnce) {
  run_ranks(2, [](Communicator& comm) {
    const auto layout =
        make_buckets(std::vector<Parameter>{{"a", {500}}}, 1 << 20, one_codec(parse_codec("int4")));
    Engine engine{comm, layout, {.timeout = Timeout::max()}};
    auto gradients = random_gradients(500, comm.rank(), 1);
    if (comm.rank() == 1) std::this_thread::sleep_for(limit);
    engine.submit(0, view_of(gradients));
    engine.end_step();
  });
}

TEST(CompressedAllreduce, RefusedCall_IsUnknownToTheOthers) {
  run_ranks(2, [](Communicator& comm) {
    const compress::Plan plan{
        {parse_codec("int8")}, {{.parameter = "a", .length = 500}}, {.ranks = 2}};
    CompressedAllreduce allreduce{comm, plan, std::make_shared<WorkerPool>(1), default_memory()};
    auto gradients = random_values(500, comm.rank());
    if (comm.rank() == 0) {
      EXPECT_THROW(allreduce.run(view_of(std::span{gradients}.first(10))), InvalidArgument);
    }
    allreduce.run(view_of(gradients));
  });
}

TEST(ReduceScatter, SecondCallInADoubleBufferedStep_IsRefused) {
  run_ranks(2, [](Communicator& comm) {
    const compress::Plan plan{{parse_codec("sign")},
                              {{.parameter = "a", .length = 500}},
                              {.ranks = 2,
                               .operation = compress::Operation::reduce_scatter,
                               .commit = Commit::double_buffered,
                               .boundaries = {0, 200, 500}}};
    CompressedReduceScatter reduce_scatter{comm, plan, std::make_shared<WorkerPool>(1),
                                           default_memory()};
    const auto gradients = random_values(500, comm.rank());
    std::vector<float> out(comm.rank() == 0 ? 200 : 300);
    reduce_scatter.run(const_view_of(gradients), view_of(out));
    EXPECT_THROW(reduce_scatter.run(const_view_of(gradients), view_of(out)), InvalidArgument);
    reduce_scatter.end_step(true);
    reduce_scatter.run(const_view_of(gradients), view_of(out));
    reduce_scatter.end_step(true);
  });
}

TEST(ReduceScatterFault, InPlace_LosesNothing) {
  const std::int64_t n = 6000;
  const compress::Plan plan{{parse_codec("sign")},
                            {{.parameter = "a", .length = n}},
                            {.ranks = ranks,
                             .operation = compress::Operation::reduce_scatter,
                             .chunks = 2,
                             .boundaries = {0, 1000, 3000, n}}};
  run_ranks(ranks, [&](Communicator& comm) {
    CompressedReduceScatter reduce_scatter{comm, plan, std::make_shared<WorkerPool>(1),
                                           default_memory()};
    std::vector<float> out(static_cast<std::size_t>(
        plan.settings().boundaries[static_cast<std::size_t>(comm.rank()) + 1] -
        plan.settings().boundaries[static_cast<std::size_t>(comm.rank())]));
    reduce_scatter.run(const_view_of(random_values(n, comm.rank())), view_of(out));
    reduce_scatter.end_step(true);
    const auto before = by_parameter(reduce_scatter.state().export_worker()).at("a");
    const auto gradients = random_values(n, 10 + comm.rank());
    if (comm.rank() == faulty) {
      comm.abort("out of paper");
      return;
    }
    EXPECT_THROW(reduce_scatter.run(const_view_of(gradients), view_of(out)), AbortedError);
    expect_nothing_lost(before, gradients.data(),
                        by_parameter(reduce_scatter.state().export_worker()).at("a"),
                        Commit::in_place, "rank " + std::to_string(comm.rank()));
  });
}

}  // namespace
}  // namespace thinwire::comm
