// NCCL on real GPUs, one process a GPU. Skipped where there are fewer GPUs than a test needs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>

#include "on_gpus.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/compress/two_phase_reference.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;

TEST_F(NcclGpu, PlainOperations_GiveWhatTheirNamesSay) {
  const int ranks = ranks_here();
  on_gpus(ranks, [ranks](Communicator& comm) {
    const auto n = static_cast<std::size_t>(ranks);
    const auto me = static_cast<float>(comm.rank());
    const CudaStream stream;
    DeviceFloats in{Floats(1000 * n, me + 1)};
    DeviceFloats out{1000 * n};
    comm.allreduce(in.tensor(), out.tensor(), ReduceOp::sum, stream)->wait(patience);
    EXPECT_OR_FAIL(out.get()[999] == static_cast<float>(ranks * (ranks + 1)) / 2);
    comm.allreduce(in.tensor(), out.tensor(), ReduceOp::max, stream)->wait(patience);
    EXPECT_OR_FAIL(out.get()[5] == static_cast<float>(ranks));
    comm.all_to_all(in.bytes(), out.bytes(), stream)->wait(patience);
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_OR_FAIL(out.get()[1000 * i] == static_cast<float>(i + 1));
    }
    DeviceFloats part{Floats(1000, me)};
    comm.all_gather(part.bytes(), out.bytes(), stream)->wait(patience);
    EXPECT_OR_FAIL(out.get()[1000 * n - 1] == static_cast<float>(ranks - 1));
    comm.reduce_scatter(in.tensor(), part.tensor(), ReduceOp::avg, stream)->wait(patience);
    EXPECT_OR_FAIL(part.get()[0] == static_cast<float>(ranks + 1) / 2);
    comm.broadcast(part.bytes(), ranks - 1, stream)->wait(patience);
    if (ranks > 1) {
      const int next = (comm.rank() + 1) % ranks;
      DeviceFloats mine{Floats(8, me)};
      DeviceFloats theirs{8};
      if (comm.rank() % 2 == 0) comm.send(mine.bytes(), next, stream);
      comm.recv(theirs.bytes(), (comm.rank() + ranks - 1) % ranks, stream);
      if (comm.rank() % 2 == 1) comm.send(mine.bytes(), next, stream)->wait(patience);
      comm.barrier()->wait(patience);
      EXPECT_OR_FAIL(theirs.get()[0] == static_cast<float>((comm.rank() + ranks - 1) % ranks));
    }
    const auto half = comm.split(comm.rank() % 2, -comm.rank());
    DeviceFloats one{Floats(4, 1)};
    half->allreduce(one.tensor(), one.tensor(), ReduceOp::sum, stream)->wait(patience);
    EXPECT_OR_FAIL(one.get()[0] == static_cast<float>(half->size()));
    return true;
  });
}

class CudaEngineMatchesReference
    : public NcclGpu,
      public ::testing::WithParamInterface<std::tuple<const char*, int>> {};

// Three steps, so that residuals of both sides take part; two buckets, so that they are coalesced.
TEST_P(CudaEngineMatchesReference, ThreeSteps_EveryRank_HoldsTheReferenceBits) {
  const auto [codec, chunks] = GetParam();
  const int ranks = ranks_here();
  const std::vector<Parameter> parameters{
      {"fc1.weight", {700, 1000}}, {"fc1.bias", {701}}, {"empty", {0}}, {"fc2.weight", {100, 77}}};
  const BucketLayout layout = make_buckets(parameters, 2'000'000, one_codec(parse_codec(codec)));
  ASSERT_EQ(layout.buckets.size(), 2u);
  std::vector<std::vector<Floats>> expected(layout.buckets.size());  // [bucket][step]
  const auto input = [&](std::size_t bucket, int rank, int step) {
    return random_gradients(layout.buckets[bucket].elements, rank + 10 * static_cast<int>(bucket),
                            step);
  };
  for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
    const Bucket& bucket = layout.buckets[b];
    compress::TwoPhaseReference reference{
        {bucket.sections, bucket.spans, {.ranks = ranks, .chunks = chunks}}};
    for (int step = 0; step < 3; ++step) {
      std::vector<Floats> inputs;
      std::vector<ConstTensorView> views;
      for (int rank = 0; rank < ranks; ++rank) inputs.push_back(input(b, rank, step));
      for (auto& values : inputs) views.push_back(view_of(values));
      expected[b].emplace_back(static_cast<std::size_t>(bucket.elements));
      reference.allreduce(views, view_of(expected[b].back()),
                          {.sequence = static_cast<std::uint64_t>(step)});
    }
  }
  on_gpus(ranks, [&, chunks = chunks](Communicator& comm) {
    CudaEngine engine{comm, layout, {.chunks = chunks, .coalesce_bytes = std::size_t{1} << 30}};
    const CudaStream stream;
    for (int step = 0; step < 3; ++step) {
      std::vector<DeviceFloats> gradients;
      for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
        gradients.emplace_back(input(b, comm.rank(), step));
        engine.submit(b, gradients.back().tensor(), stream);
      }
      const auto number = engine.end_step(stream);
      engine.synchronize();
      const auto report = engine.report(number);
      EXPECT_OR_FAIL(report && !report->skipped && !report->failed);
      for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
        EXPECT_OR_FAIL(same_bits(gradients[b].get(), expected[b][static_cast<std::size_t>(step)]));
      }
    }
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Codecs, CudaEngineMatchesReference,
                         ::testing::Combine(::testing::Values("sign", "int8", "int4", "fp16",
                                                              "bf16+ef"),
                                            ::testing::Values(1, 3)));

TEST_F(NcclGpu, GraphReplay_GivesTheBitsOfEagerSteps) {
  const int ranks = ranks_here();
  on_gpus(ranks, [](Communicator& comm) {
    const std::int64_t n = 100'000;
    const BucketLayout layout =
        make_buckets(std::vector<Parameter>{{"w", {n}}}, 1 << 30, one_codec(parse_codec("sign")));
    const Floats input = random_gradients(n, comm.rank(), 0);
    const DeviceFloats source{input};
    const auto steps = [&](bool captured) {
      CudaEngine engine{comm, layout};
      const CudaStream stream;
      const DeviceFloats gradients{static_cast<std::size_t>(n)};
      const auto one_step = [&] {
        cudaMemcpyAsync(gradients.buffer.data(), source.buffer.data(), source.buffer.size(),
                        cudaMemcpyDeviceToDevice, stream.view().handle());
        engine.submit(0, gradients.tensor(), stream);
        engine.end_step(stream);
      };
      if (captured) {
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        cudaStreamBeginCapture(stream.view().handle(), cudaStreamCaptureModeThreadLocal);
        one_step();
        cudaStreamEndCapture(stream.view().handle(), &graph);
        if (cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess) return Floats{};
        for (int i = 0; i < 100; ++i) cudaGraphLaunch(executable, stream.view().handle());
        stream.synchronize();
        cudaGraphExecDestroy(executable);
        cudaGraphDestroy(graph);
      } else {
        for (int i = 0; i < 100; ++i) one_step();
        engine.synchronize();
      }
      return gradients.get();
    };
    const Floats eager = steps(false);
    const Floats replayed = steps(true);
    EXPECT_OR_FAIL(same_bits(eager, replayed));
    return true;
  });
}

/// Allreduces until something is raised; the rank that the error blames and the seconds since
/// `since`.
std::pair<int, double> blamed_rank(Communicator& comm, const std::function<void(int)>& before) {
  const std::int64_t n = 25'000'000;
  const BucketLayout layout =
      make_buckets(std::vector<Parameter>{{"w", {n}}}, 1 << 30, one_codec(parse_codec("sign")));
  CudaEngine engine{comm, layout};
  const CudaStream stream;
  const DeviceFloats gradients{static_cast<std::size_t>(n)};
  auto last = std::chrono::steady_clock::now();
  try {
    for (int i = 0;; ++i) {
      last = std::chrono::steady_clock::now();
      before(i);
      engine.submit(0, gradients.tensor(), stream);
      engine.end_step(stream);
      if (i % 8 == 7) engine.synchronize();
    }
  } catch (const TransportError& error) {
    std::fprintf(stderr, "rank %d: %s\n", comm.rank(), error.what());
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - last;
    return {error.peer, waited.count()};
  }
}

void expect_all_others_name(int victim, Timeout timeout, const std::function<void()>& deed) {
  const int ranks = ranks_here();
  if (ranks <= victim) GTEST_SKIP() << "needs " << victim + 1 << " GPUs";
  const int port = free_port();
  const auto statuses = run_tcp_processes(
      ranks,
      [&](int rank) {
        cudaSetDevice(rank);
        const auto comm =
            make_nccl_communicator(rendezvous_of(rank, ranks, port, timeout), {.timeout = timeout});
        const auto [culprit, seconds] = blamed_rank(*comm, [&](int i) {
          if (rank == victim && i == 100) deed();
        });
        std::fprintf(stderr, "rank %d blames %d after %.3f s\n", rank, culprit, seconds);
        return culprit == victim && seconds < static_cast<double>(timeout.count()) / 1000 + 1;
      },
      victim);
  for (int rank = 0; rank < ranks; ++rank) {
    if (rank == victim) continue;
    EXPECT_EQ(statuses[static_cast<std::size_t>(rank)], 0) << "rank " << rank;
  }
}

TEST_F(NcclGpu, RankKilledInMidAllreduce_IsNamedByAllOthers) {
  expect_all_others_name(1, Timeout{5000}, [] { raise(SIGKILL); });
}

TEST_F(NcclGpu, RankThatStops_IsNamedByAllOthers) {
  expect_all_others_name(1, Timeout{4000}, [] { raise(SIGSTOP); });
}

TEST_F(NcclGpu, RankThatIsElsewhere_IsNamedByAllOthers) {
  expect_all_others_name(1, Timeout{3000}, [] { std::this_thread::sleep_for(Timeout{9000}); });
}

}  // namespace
}  // namespace thinwire::comm
