#include <gmock/gmock.h>

#include "bucket.hpp"
#include "count_calls.hpp"
#include "gpu_ranks.hpp"

/// In steady state nothing waits for the device and nothing is allocated.
namespace thinwire::compress::test {
namespace {

using testing::IsEmpty;
using testing::SizeIs;
using thinwire::test::CallCounter;

TEST(CallCounter, WaitAndAllocation_AreCounted) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const CallCounter counter;
  gpu.stream.synchronize();
  EXPECT_THAT(counter.waits(), SizeIs(1));
  { const Buffer buffer = gpu.buffer(100); }
  EXPECT_THAT(counter.allocations(), SizeIs(2));
}

class CudaCallsOf : public testing::TestWithParam<std::string> {};

TEST_P(CudaCallsOf, SteadyState_NeverWaitsAndNeverAllocates) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
    const Plan plan = make_plan(GetParam(), commit, 2);
    GpuRanks ranks{gpu, plan};
    set_noise(ranks, plan, 1);
    const auto step = [&] {
      ranks.enqueue();
      ranks.step().end(ranks.stream());
    };
    step();
    step();
    gpu.stream.synchronize();
    const CallCounter counter;
    for (int i = 0; i < 20; ++i) step();
    EXPECT_THAT(counter.waits(), IsEmpty());
    EXPECT_THAT(counter.allocations(), IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, CudaCallsOf,
                         testing::Values("sign", "int8", "int4", "bf16+ef", "fp16", "topk:0.01"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace thinwire::compress::test
