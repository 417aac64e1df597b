#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "thinwire/core/error.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire {
namespace {

std::shared_ptr<TrackingMemory> tracked_host() {
  return std::make_shared<TrackingMemory>(std::make_shared<HostMemory>());
}

bool aligned(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data) % memory_alignment == 0;
}

TEST(HostMemory, Allocate_OddSizes_AreAligned) {
  HostMemory memory;
  for (const std::size_t bytes : {1, 63, 64, 65, 1000}) {
    void* data = memory.allocate(bytes, "test");
    EXPECT_TRUE(aligned(data)) << bytes;
    memory.deallocate(data, bytes, "test");
  }
  EXPECT_EQ(memory.allocate(0, "test"), nullptr);
}

TEST(HostMemory, Allocate_MoreThanTheAddressSpace_ThrowsWithTheRequest) {
  HostMemory memory;
  const std::size_t bytes = std::numeric_limits<std::size_t>::max() - 1;
  try {
    memory.allocate(bytes, "payload");
    FAIL() << "allocated";
  } catch (const OutOfMemory& error) {
    EXPECT_EQ(error.requested, bytes);
    EXPECT_THAT(error.what(), testing::HasSubstr("payload"));
  }
}

TEST(TrackingMemory, Use_ByTag_CountsCurrentPeakAndCalls) {
  TrackingMemory memory{std::make_shared<HostMemory>()};
  void* a = memory.allocate(100, "residual");
  void* b = memory.allocate(50, "payload");
  memory.deallocate(a, 100, "residual");
  void* c = memory.allocate(30, "residual");
  const auto tags = memory.by_tag();
  ASSERT_EQ(tags.size(), 2u);
  EXPECT_EQ(tags[0].tag, "payload");
  EXPECT_EQ(tags[1].current, 30u);
  EXPECT_EQ(tags[1].peak, 100u);
  EXPECT_EQ(tags[1].count, 2u);
  EXPECT_EQ(memory.total().current, 80u);
  EXPECT_EQ(memory.total().peak, 150u);
  EXPECT_THAT(memory.report(),
              testing::AllOf(testing::HasSubstr("residual"), testing::HasSubstr("total")));
  memory.deallocate(b, 50, "payload");
  memory.deallocate(c, 30, "residual");
  EXPECT_EQ(memory.total().current, 0u);
}

TEST(TrackingMemory, RefusedRequest_IsNotCounted) {
  TrackingMemory memory{std::make_shared<LimitMemory>(std::make_shared<HostMemory>(), 10)};
  EXPECT_THROW(memory.allocate(11, "payload"), OutOfMemory);
  EXPECT_EQ(memory.total().current, 0u);
  EXPECT_EQ(memory.total().count, 0u);
}

TEST(LimitMemory, OverTheLimit_NamesRequestUseAndLimit) {
  LimitMemory memory{std::make_shared<HostMemory>(), 1000};
  void* data = memory.allocate(600, "residual");
  try {
    memory.allocate(500, "payload");
    FAIL() << "allocated";
  } catch (const OutOfMemory& error) {
    EXPECT_EQ(error.requested, 500u);
    EXPECT_EQ(error.in_use, 600u);
    EXPECT_EQ(error.limit, 1000u);
    EXPECT_THAT(error.what(), testing::HasSubstr("payload"));
  }
  void* rest = memory.allocate(400, "payload");  // nothing was lost
  memory.deallocate(rest, 400, "payload");
  memory.deallocate(data, 600, "residual");
  memory.deallocate(memory.allocate(1000, "all"), 1000, "all");
}

TEST(PoolMemory, SteadyState_AsksUpstreamForNothing) {
  const auto upstream = tracked_host();
  PoolMemory pool{upstream};
  for (int step = 0; step < 10; ++step) {
    void* a = pool.allocate(1000, "payload");
    void* b = pool.allocate(5000, "residual");
    EXPECT_TRUE(aligned(a));
    EXPECT_NE(a, b);
    pool.deallocate(a, 1000, "payload");
    pool.deallocate(b, 5000, "residual");
  }
  EXPECT_EQ(upstream->total().count, 2u);
}

TEST(PoolMemory, Trim_IdleBlocks_GoBackUnderTheirTag) {
  const auto upstream = tracked_host();
  PoolMemory pool{upstream};
  void* kept = pool.allocate(64, "payload");
  pool.deallocate(pool.allocate(1000, "residual"), 1000, "residual");
  pool.trim();
  EXPECT_EQ(upstream->total().current, 64u);
  ASSERT_EQ(upstream->by_tag().size(), 1u);
  EXPECT_EQ(upstream->by_tag()[0].current, 64u);
  pool.deallocate(kept, 64, "payload");
}

TEST(PoolMemory, Destroyed_LeavesNothingUpstream) {
  const auto upstream = tracked_host();
  {
    PoolMemory pool{upstream};
    pool.deallocate(pool.allocate(1000, "payload"), 1000, "payload");
  }
  EXPECT_EQ(upstream->total().current, 0u);
}

// 640 idle bytes stand in the way of 960 under a limit of 1024.
TEST(PoolMemory, UpstreamIsFull_GivesIdleBlocksBackFirst) {
  PoolMemory pool{std::make_shared<LimitMemory>(std::make_shared<HostMemory>(), 1024)};
  pool.deallocate(pool.allocate(640, "a"), 640, "a");
  void* data = pool.allocate(960, "b");
  EXPECT_NE(data, nullptr);
  try {
    pool.allocate(100, "residual");
    FAIL() << "allocated";
  } catch (const OutOfMemory& error) {
    EXPECT_EQ(error.requested, 100u);
    EXPECT_EQ(error.in_use, 960u);
    EXPECT_THAT(error.what(), testing::HasSubstr("residual"));
  }
  pool.deallocate(data, 960, "b");
}

TEST(PoolMemory, Allocate_MoreThanTheAddressSpace_Throws) {
  PoolMemory pool{std::make_shared<HostMemory>()};
  EXPECT_THROW(pool.allocate(std::numeric_limits<std::size_t>::max(), "payload"), OutOfMemory);
}

TEST(PoolMemory, ManyThreads_NeverShareABlock) {
  const auto upstream = tracked_host();
  auto pool = std::make_shared<PoolMemory>(upstream);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const Buffer buffer{pool, 256, "payload"};
        auto* values = buffer.as<int>();
        for (int k = 0; k < 64; ++k) values[k] = t;
        for (int k = 0; k < 64; ++k) ASSERT_EQ(values[k], t);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_LE(upstream->total().count, 4u);
}

TEST(Buffer, Moved_OwnsOnce) {
  const auto memory = tracked_host();
  {
    Buffer first{memory, 100, "a"};
    std::byte* data = first.data();
    Buffer second{std::move(first)};
    EXPECT_EQ(second.data(), data);
    EXPECT_EQ(first.data(), nullptr);  // NOLINT: a moved-from buffer is empty
    EXPECT_EQ(first.size(), 0u);
    Buffer third{memory, 7, "b"};
    third = std::move(second);
    EXPECT_EQ(third.data(), data);
    EXPECT_EQ(memory->total().current, 100u);
  }
  EXPECT_EQ(memory->total().current, 0u);
}

TEST(DefaultMemory, EveryCall_IsTheSameResource) { EXPECT_EQ(default_memory(), default_memory()); }

}  // namespace
}  // namespace thinwire
