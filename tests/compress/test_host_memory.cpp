#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "host_parity.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<int> allocations{0};

void* counted(std::size_t bytes) {
  if (counting) ++allocations;
  if (void* data = std::malloc(bytes)) return data;
  throw std::bad_alloc{};
}

}  // namespace

// All of the process, libthinwire included, allocates through these.
void* operator new(std::size_t bytes) { return counted(bytes); }
void* operator new[](std::size_t bytes) { return counted(bytes); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }
void operator delete[](void* data, std::size_t) noexcept { std::free(data); }

namespace thinwire::compress {
namespace {

TEST(HostCoder, Verbs_AllocateNothing) {
  const std::int64_t n = 300'000;
  for (const char* codec : {"bf16+ef", "fp16", "int8", "int4", "sign", "topk:0.01"}) {
    const Plan plan = test::simple_plan(codec, n, 2);
    const auto pool = std::make_shared<WorkerPool>(2);
    counting = true;
    make_host_coder(plan, pool);
    counting = false;
    ASSERT_GT(allocations, 0) << "the library's allocations are not seen";
    test::TwoPhase world{plan, [&](const Plan& p) { return make_host_coder(p, pool); }};
    const auto gradients = test::awkward_gradients_of_ranks(2, n, 1);
    std::vector<float> out(static_cast<std::size_t>(n));
    world.allreduce(gradients, out);
    world.commit();
    const std::size_t tracked = default_memory()->total().count;
    allocations = 0;
    counting = true;
    world.allreduce(gradients, out);
    counting = false;
    EXPECT_EQ(allocations, 0) << codec;
    EXPECT_EQ(default_memory()->total().count, tracked) << codec;
    world.commit();
  }
}

}  // namespace
}  // namespace thinwire::compress
