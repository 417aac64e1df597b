#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <tuple>

#include "gradients.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/fault_injection.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;
using testing::random_gradients;
using testing::same_bits;
using testing::small_model;

/// The buckets of small_model with at most `cap` bytes each, int4 but for biases.
std::vector<Bucket> buckets_of(std::size_t cap, const char* codec = "int4") {
  return make_buckets(small_model, cap,
                      [codec](const Parameter& parameter) {
                        return parse_codec(parameter.shape.size() > 1 ? codec : "none");
                      })
      .buckets;
}

std::int64_t elements_of(const std::vector<Bucket>& buckets) {
  std::int64_t sum = 0;
  for (const Bucket& bucket : buckets) sum += bucket.elements;
  return sum;
}

std::vector<std::size_t> add_all(Engine& engine, const std::vector<Bucket>& buckets) {
  std::vector<std::size_t> indices;
  for (const Bucket& bucket : buckets) indices.push_back(engine.add_bucket(bucket));
  return indices;
}

void expect_equal_residuals(const std::vector<compress::Residual>& found,
                            const std::vector<compress::Residual>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  const auto in_order = [](std::vector<compress::Residual> residuals) {
    std::sort(residuals.begin(), residuals.end(), [](const auto& a, const auto& b) {
      return std::tie(a.parameter, a.offset) < std::tie(b.parameter, b.offset);
    });
    return residuals;
  };
  const auto mine = in_order(found), others = in_order(expected);
  for (std::size_t i = 0; i < mine.size(); ++i) {
    EXPECT_EQ(mine[i].parameter, others[i].parameter);
    EXPECT_TRUE(same_bits(mine[i].values, others[i].values)) << mine[i].parameter;
  }
}

/// One step on gradients that depend on the parameter order alone, which all layouts share.
std::vector<float> run_step(Engine& engine, const std::vector<std::size_t>& indices, int rank,
                            int step) {
  std::int64_t elements = 0;
  for (const std::size_t i : indices) elements += engine.layout().buckets[i].elements;
  auto gradients = random_gradients(elements, rank, step);
  std::size_t offset = 0;
  for (const std::size_t i : indices) {
    const auto n = static_cast<std::size_t>(engine.layout().buckets[i].elements);
    engine.submit(i, view_of(std::span{gradients}.subspan(offset, n)));
    offset += n;
  }
  engine.end_step();
  return gradients;
}

TEST(EngineAddBucket, RebuiltAfterAStep_GivesTheBitsOfOneLayout) {
  run_ranks(3, [](Communicator& communicator) {
    Engine fixed{communicator, {}};
    const auto small = add_all(fixed, buckets_of(2000));
    Engine rebuilt{communicator, {}};
    auto current = add_all(rebuilt, buckets_of(1 << 20));
    ASSERT_EQ(current.size(), 1u);
    for (int step = 0; step < 4; ++step) {
      const auto expected = run_step(fixed, small, communicator.rank(), step);
      if (step == 1) {
        current.clear();
        std::int64_t offset = 0;  // each bucket is added as it is first needed, as a hook does
        auto gradients = random_gradients(elements_of(buckets_of(2000)), communicator.rank(), step);
        for (const Bucket& bucket : buckets_of(2000)) {
          current.push_back(rebuilt.add_bucket(bucket));
          rebuilt.submit(current.back(), view_of(std::span{gradients}.subspan(
                                             static_cast<std::size_t>(offset),
                                             static_cast<std::size_t>(bucket.elements))));
          offset += bucket.elements;
        }
        rebuilt.end_step();
        EXPECT_TRUE(same_bits(gradients, expected)) << "step " << step;
      } else {
        EXPECT_TRUE(same_bits(run_step(rebuilt, current, communicator.rank(), step), expected))
            << "step " << step;
      }
    }
    EXPECT_THROW(rebuilt.plan(0), InvalidArgument);
  });
}

TEST(EngineAddBucket, ParameterThatTurnsPlain_KeepsItsResidualForLater) {
  run_ranks(2, [](Communicator& communicator) {
    Engine engine{communicator, {}};
    run_step(engine, add_all(engine, buckets_of(1 << 20)), communicator.rank(), 0);
    const auto before = engine.export_worker();
    ASSERT_FALSE(before.empty());
    run_step(engine, add_all(engine, buckets_of(1 << 20, "none")), communicator.rank(), 1);
    add_all(engine, buckets_of(1 << 20));
    const auto after = engine.export_worker();
    ASSERT_EQ(after.size(), before.size());
    for (std::size_t i = 0; i < after.size(); ++i) {
      EXPECT_EQ(after[i].parameter, before[i].parameter);
      EXPECT_TRUE(same_bits(after[i].values, before[i].values));
    }
  });
}

TEST(EngineRestore, IntoAnotherLayout_ContinuesBitwise) {
  run_ranks(4, [](Communicator& communicator) {
    Engine unbroken{communicator, {}};
    const auto all = add_all(unbroken, buckets_of(2000, "sign"));
    run_step(unbroken, all, communicator.rank(), 0);
    Engine resumed{communicator, {}};
    resumed.restore(unbroken.export_worker(), unbroken.export_server());
    const auto one = add_all(resumed, buckets_of(1 << 20, "sign"));
    EXPECT_TRUE(same_bits(run_step(resumed, one, communicator.rank(), 1),
                          run_step(unbroken, all, communicator.rank(), 1)));
  });
}

TEST(EngineAddBucket, RanksThatDiffer_RaiseOnAllAndNameTheField) {
  run_ranks(2, [](Communicator& communicator) {
    Engine engine{communicator, {}};
    EXPECT_THROW(add_all(engine, buckets_of(1 << 20, communicator.rank() == 0 ? "int4" : "int8")),
                 MismatchError);
  });
}

TEST(EngineAddBucket, InTheStepOfItsParameter_IsRefused) {
  run_ranks(2, [](Communicator& communicator) {
    Engine engine{communicator, {}};
    const auto buckets = buckets_of(1 << 20);
    const auto index = engine.add_bucket(buckets[0]);
    auto gradients = random_gradients(buckets[0].elements, communicator.rank(), 0);
    engine.submit(index, view_of(gradients));
    EXPECT_THROW(engine.add_bucket(buckets[0]), InvalidArgument);
    engine.end_step();
  });
}

TEST(EngineAddBucket, ExchangeThatFails_LosesNoResidual) {
  std::atomic<int> survivors{0};
  run_ranks(3, [&](Communicator& inner) {
    const auto comm = inject_faults(  // not in the first bucket's exchange, of nothing yet
        inner, {{.kind = Fault::Kind::kill, .rank = 1, .operation = "all_to_all_v", .call = 1}});
    Engine engine{
        *comm, {}, {.commit = compress::Commit::double_buffered, .timeout = Timeout{500}}};
    const auto all = add_all(engine, buckets_of(1 << 20, "int4"));
    run_step(engine, all, inner.rank(), 0);
    const auto worker = engine.export_worker();
    const auto server = engine.export_server();
    try {
      add_all(engine, buckets_of(1 << 20, "sign"));
      ADD_FAILURE() << "rank " << inner.rank() << " saw no error";
    } catch (const TransportError& error) {
      if (inner.rank() == 1) return;
      ++survivors;
      EXPECT_EQ(error.peer, 1) << error.what();
    }
    expect_equal_residuals(engine.export_worker(), worker);
    expect_equal_residuals(engine.export_server(), server);
  });
  EXPECT_EQ(survivors, 2);
}

TEST(Engine, ThousandsOfBuckets_AreComparedAndTheFirstThatDiffersIsNamed) {
  run_ranks(2, [](Communicator& communicator) {
    BucketLayout layout;
    for (int i = 0; i < 3000; ++i) {
      const bool differs = i == 2345 && communicator.rank() == 1;
      layout.buckets.push_back(make_buckets(std::vector<Parameter>{{"p" + std::to_string(i), {1}}},
                                            1 << 20,
                                            one_codec(parse_codec(differs ? "int8" : "int4")))
                                   .buckets[0]);
    }
    try {
      const Engine engine{communicator, layout};
      ADD_FAILURE() << "rank " << communicator.rank() << " saw no error";
    } catch (const MismatchError& error) {
      EXPECT_THAT(error.field, ::testing::HasSubstr("of bucket 2345"));
    }
  });
}

TEST(EngineSubmit, WhileAFailureIsToldToCallbacks_GetsItsOwnToo) {
  run_ranks(2, [](Communicator& communicator) {
    const auto buckets = buckets_of(2000);
    Engine engine{communicator, {}, {.timeout = Timeout{300}}};
    const auto indices = add_all(engine, buckets);
    if (communicator.rank() == 1) {  // takes no part, until rank 0 has lost patience
      while (!communicator.control().abort_notice()) std::this_thread::yield();
      return;
    }
    std::atomic<bool> telling{false};
    std::atomic<int> accepted{0}, called{0};
    std::vector<std::vector<float>> gradients;
    for (const Bucket& bucket : buckets)
      gradients.push_back(random_gradients(bucket.elements, 0, 0));
    const auto submit = [&](std::size_t i, const std::function<void()>& done) {
      engine.submit(indices[i], view_of(gradients[i]), nullptr, nullptr, done);
      ++accepted;
    };
    submit(buckets.size() - 1, [&] {
      telling = true;
      std::this_thread::sleep_for(std::chrono::milliseconds{100});
      ++called;
    });
    while (!telling) std::this_thread::yield();
    try {
      submit(0, [&] { ++called; });
    } catch (const TransportError&) {  // too late: the failure is known
    }
    EXPECT_THROW(engine.end_step(), TransportError);
    EXPECT_EQ(called, accepted);
  });
}

TEST(EngineSubmit, Callback_IsCalledOnceForEachCall) {
  run_ranks(2, [](Communicator& communicator) {
    Engine engine{communicator, {}};
    const auto buckets = buckets_of(1 << 20);
    const auto index = engine.add_bucket(buckets[0]);
    std::atomic<int> calls{0};
    for (int step = 0; step < 3; ++step) {
      auto gradients = random_gradients(buckets[0].elements, communicator.rank(), step);
      engine.submit(index, view_of(gradients), nullptr, nullptr, [&] {
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
        ++calls;
      });
      engine.end_step();
      EXPECT_EQ(calls, step + 1) << "end_step returned while the callback still ran";
    }
  });
}

}  // namespace
}  // namespace thinwire::comm
