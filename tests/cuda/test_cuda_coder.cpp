#include <gmock/gmock.h>

#include <cmath>

#include "bucket.hpp"
#include "gpu_ranks.hpp"
#include "thinwire/compress/coder.hpp"

/// What the GPU coder promises beyond its bits (test_parity.cpp).
namespace thinwire::compress::test {
namespace {

/// Captures one step of all ranks. Relaxed only in nothing: anything that waits for the device, or
/// allocates, ends a global capture with an error.
cudaGraphExec_t capture_step(GpuRanks& ranks, const CudaCall& scales = {}) {
  check(cudaStreamBeginCapture(ranks.stream().handle(), cudaStreamCaptureModeGlobal));
  ranks.enqueue(scales);
  ranks.step().end(ranks.stream());
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(ranks.stream().handle(), &graph));
  cudaGraphExec_t executable = nullptr;
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaGraphDestroy(graph));
  return executable;
}

class CudaCoderOf : public testing::TestWithParam<std::string> {};

TEST_P(CudaCoderOf, GraphReplay100Times_EqualsEager) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
    const Plan plan = make_plan(GetParam(), commit, 2);
    GpuRanks eager{gpu, plan};
    GpuRanks replayed{gpu, plan};
    set_noise(eager, plan, 1);
    set_noise(replayed, plan, 1);
    for (int step = 0; step < 100; ++step) {
      eager.enqueue();
      eager.step().end(eager.stream());
    }
    // A capture enqueues nothing: no host wait and no allocation can hide in it.
    cudaGraphExec_t graph = capture_step(replayed);
    for (int step = 0; step < 100; ++step) {
      check(cudaGraphLaunch(graph, replayed.stream().handle()));
    }
    gpu.stream.synchronize();
    check(cudaGraphExecDestroy(graph));
    EXPECT_EQ(eager.host_out(), replayed.host_out());
    EXPECT_EQ(eager.host_sent(0), replayed.host_sent(0));
    EXPECT_EQ(all_residuals(eager, plan), all_residuals(replayed, plan));
    ASSERT_TRUE(replayed.step().report(99).has_value());
    EXPECT_FALSE(replayed.step().report(99)->failed);
    EXPECT_FALSE(replayed.ring().poll().has_value());
  }
}

TEST_P(CudaCoderOf, Chunks1To7_GiveEqualBits) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  std::vector<std::byte> expected;
  std::vector<float> expected_residuals;
  for (int chunks = 1; chunks <= 7; ++chunks) {
    const Plan plan = make_plan(GetParam(), Commit::in_place, chunks);
    GpuRanks ranks{gpu, plan};
    for (unsigned step = 0; step < 2; ++step) {
      set_noise(ranks, plan, step);
      ranks.enqueue();
      ranks.step().end(ranks.stream());
    }
    std::vector<float> workers;
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      for (const Residual& residual : ranks.state(rank).export_worker(ranks.stream())) {
        workers.insert(workers.end(), residual.values.begin(), residual.values.end());
      }
    }
    if (chunks == 1) {
      expected = ranks.host_out();
      expected_residuals = workers;
    }
    EXPECT_EQ(ranks.host_out(), expected) << chunks << " chunks";
    EXPECT_EQ(workers, expected_residuals) << chunks << " chunks";
  }
}

TEST_P(CudaCoderOf, SteadyState_AllocatesNothing) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks ranks{gpu, plan};
  set_noise(ranks, plan, 1);
  const auto step = [&] {
    ranks.enqueue();
    ranks.step().end(ranks.stream());
    gpu.stream.synchronize();
  };
  step();
  step();
  const std::size_t allocations = gpu.memory->total().count;
  for (int i = 0; i < 20; ++i) step();
  EXPECT_EQ(gpu.memory->total().count, allocations);
}

TEST_P(CudaCoderOf, NonFiniteStep_DoubleBuffered_LeavesBitwiseTheOldState) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks ranks{gpu, plan};
  set_noise(ranks, plan, 1);
  ranks.enqueue();
  ranks.step().end(ranks.stream());
  const auto before = all_residuals(ranks, plan);

  auto broken = floats(noise(plan.source_extent(), 7));
  broken[20000] = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::byte> bytes(broken.size() * sizeof(float));
  std::memcpy(bytes.data(), broken.data(), bytes.size());
  ranks.set_gradients(1, bytes);
  ranks.enqueue();
  ranks.step().end(ranks.stream());
  EXPECT_EQ(all_residuals(ranks, plan), before);
  EXPECT_TRUE(std::isnan(floats(ranks.host_out())[20000]));
  ASSERT_TRUE(ranks.step().report(1).has_value());
  EXPECT_TRUE(ranks.step().report(1)->skipped);
  EXPECT_FALSE(ranks.step().report(1)->failed);
}

TEST_P(CudaCoderOf, FoundInfOfTheCaller_DoubleBuffered_SkipsTheStep) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks ranks{gpu, plan};
  set_noise(ranks, plan, 1);
  ranks.enqueue();
  ranks.step().end(ranks.stream());
  const auto before = all_residuals(ranks, plan);
  const float flags[] = {1.0f, 0.0f};
  const Buffer found_inf = gpu.upload<float>(flags);
  ranks.enqueue();
  ranks.step().end(ranks.stream(), found_inf.as<float>());
  EXPECT_EQ(all_residuals(ranks, plan), before);
  ranks.enqueue();
  ranks.step().end(ranks.stream(), found_inf.as<float>() + 1);
  EXPECT_NE(all_residuals(ranks, plan), before);
}

TEST_P(CudaCoderOf, LossScale_ScalesTheResultAndNotTheResidual) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks plain{gpu, plan};
  GpuRanks scaled{gpu, plan};
  const float factors[] = {0x1p-10f, 0x1p10f};
  const Buffer device = gpu.upload<float>(factors);
  const CudaCall scales{
      .stream = {}, .inv_scale = device.as<float>(), .out_scale = device.as<float>() + 1};
  for (unsigned step = 0; step < 3; ++step) {
    set_noise(plain, plan, step);
    set_noise(scaled, plan, step, 0x1p10f);
    plain.enqueue();
    plain.step().end(plain.stream());
    scaled.enqueue(scales);
    scaled.step().end(scaled.stream());
  }
  auto expected = floats(plain.host_out());
  for (float& value : expected) value *= 0x1p10f;
  EXPECT_EQ(floats(scaled.host_out()), expected);
  EXPECT_EQ(all_residuals(scaled, plan), all_residuals(plain, plan));
}

TEST_P(CudaCoderOf, ExportAndImport_GiveTheSameNextStep) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks first{gpu, plan};
  GpuRanks second{gpu, plan};
  set_noise(first, plan, 1);
  first.enqueue();
  first.step().end(first.stream());
  for (int rank = 0; rank < plan.ranks(); ++rank) {
    second.state(rank).import_worker(first.state(rank).export_worker(first.stream()),
                                     second.stream());
    second.state(rank).import_server(first.state(rank).export_server(first.stream()),
                                     second.stream());
  }
  set_noise(first, plan, 2);
  set_noise(second, plan, 2);
  for (GpuRanks* ranks : {&first, &second}) {
    ranks->enqueue();
    ranks->step().end(ranks->stream());
  }
  EXPECT_EQ(first.host_out(), second.host_out());
}

INSTANTIATE_TEST_SUITE_P(Gpu, CudaCoderOf,
                         testing::Values("sign", "int8", "int4", "bf16+ef", "fp16", "topk:0.01"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

TEST(CudaCoder, MoreThan2To31Elements_CodesTheLastOnes) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  constexpr std::int64_t tail = 5000;
  const std::int64_t n = (std::int64_t{1} << 31) + tail;
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (free_bytes < 12u * static_cast<std::size_t>(n)) {
    GTEST_SKIP() << "SKIPPED: too little device memory";
  }
  PlanSettings settings;
  settings.dtype = DType::bf16;
  const auto plan_of = [&](std::int64_t length) {
    Span span;
    span.parameter = "p";
    span.length = length;
    return Plan{{parse_codec("sign")}, {span}, settings};
  };
  const auto gradients = noise(tail, 3);
  std::vector<BFloat16> narrow;
  for (const float value : floats(gradients)) narrow.push_back(from_float<BFloat16>(value));
  const auto decoded_tail = [&](const Plan& plan) {
    GpuRanks ranks{gpu, plan};
    std::vector<std::byte> bytes(ranks.tensor_bytes());
    std::memcpy(bytes.data() + bytes.size() - narrow.size() * sizeof(BFloat16), narrow.data(),
                narrow.size() * sizeof(BFloat16));
    ranks.set_gradients(0, bytes);
    ranks.enqueue();
    ranks.step().end(ranks.stream());
    const auto residual = gpu.download(
        ranks.state(0).worker_version(0) + plan.residual_elements() - 2 * tail, 2 * tail);
    auto result = gpu.download(
        reinterpret_cast<const std::uint16_t*>(ranks.out()) + plan.source_extent() - tail, tail);
    for (const float value : residual) result.push_back(std::bit_cast<std::uint32_t>(value) >> 16);
    EXPECT_FALSE(ranks.ring().poll().has_value());
    return result;
  };
  const std::int64_t whole_blocks = 1024 * 20;
  EXPECT_EQ(decoded_tail(plan_of(n)), decoded_tail(plan_of(whole_blocks + tail)));
}

TEST(CudaCoder, EmptyBucket_ExchangesHeadersAlone) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  PlanSettings settings;
  settings.ranks = 2;
  const Plan plan{{parse_codec("sign")}, {}, settings};
  GpuRanks ranks{gpu, plan};
  ranks.enqueue();
  ranks.step().end(ranks.stream());
  gpu.stream.synchronize();
  EXPECT_FALSE(ranks.ring().poll().has_value());
  EXPECT_FALSE(ranks.step().report(0)->failed);
}

TEST(CudaCoder, Reduce_EqualsTheReferenceCoder) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  for (const char* codec : {"sign", "int8", "int4", "bf16", "fp16", "topk:0.05"}) {
    const Plan plan = make_plan(codec, Commit::in_place, 2);
    GpuRanks ranks{gpu, plan};
    set_noise(ranks, plan, 4);
    for (int rank = 0; rank < plan.ranks(); ++rank) ranks.enqueue_encode(rank);
    const auto reference = make_reference_coder(plan);
    for (int shard = 0; shard < plan.ranks(); ++shard) {
      std::vector<float> expected(static_cast<std::size_t>(plan.source_extent()), 0.0f);
      const Buffer out = gpu.upload<float>(std::span<const float>{expected});
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
        ranks.enqueue_exchange(shard, chunk);
        const ByteView slots = ranks.received(chunk);
        ranks.coder().reduce(chunk, slots, shard, {.stream = ranks.stream()},
                             {out.data(), plan.source_extent(), DType::f32, Device::cuda}, 0);
        const auto host = gpu.download(slots.data, slots.size);
        reference->reduce(chunk, host, shard, {},
                          {expected.data(), plan.source_extent(), DType::f32}, 0);
      }
      EXPECT_EQ(gpu.download(out.as<float>(), expected.size()), expected) << codec;
    }
  }
}

}  // namespace
}  // namespace thinwire::compress::test
