#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "thinwire/core/error.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire {
namespace {

TEST(WorkerPool, ParallelFor_AnyCountAndThreads_CallsEachItemOnce) {
  for (const int threads : {1, 2, 5}) {
    WorkerPool pool{threads};
    EXPECT_EQ(pool.threads(), threads);
    for (const std::int64_t count : {0, 1, 2, 3, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      pool.parallel_for(count, [&](std::int64_t i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const auto& of_item : calls) ASSERT_EQ(of_item, 1);
    }
  }
}

TEST(WorkerPool, ParallelFor_ManyLoops_SeeTheirOwnBody) {
  WorkerPool pool{3};
  std::int64_t sum = 0;
  for (std::int64_t loop = 0; loop < 500; ++loop) {
    std::atomic<std::int64_t> of_loop{0};
    pool.parallel_for(4, [&](std::int64_t i) { of_loop += loop * i; });
    sum += of_loop;
  }
  EXPECT_EQ(sum, 6 * 500 * 499 / 2);
}

TEST(WorkerPool, ParallelFor_BodyThrows_RethrowsAndGoesOn) {
  for (const int threads : {1, 3}) {
    WorkerPool pool{threads};
    const auto failing = [](std::int64_t i) {
      if (i == 5) throw std::runtime_error{"item 5"};
    };
    EXPECT_THROW(pool.parallel_for(10, failing), std::runtime_error);
    std::atomic<int> calls{0};
    pool.parallel_for(10, [&](std::int64_t) { ++calls; });
    EXPECT_EQ(calls, 10);
  }
}

TEST(WorkerPool, ParallelFor_SeveralCallers_TakeTurns) {
  WorkerPool pool{2};
  std::atomic<int> calls{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int loop = 0; loop < 50; ++loop) pool.parallel_for(8, [&](std::int64_t) { ++calls; });
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(calls, 4 * 50 * 8);
}

TEST(WorkerPool, NoThreads_IsRefused) { EXPECT_THROW(WorkerPool{0}, InvalidArgument); }

}  // namespace
}  // namespace thinwire
