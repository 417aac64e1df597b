// Exchanges of GPU memory through the host, on real GPUs: ranks are threads of one process, on a
// GPU each.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>

#include "on_gpus.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/staged.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/compress/two_phase_reference.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;

/// Each rank needs a GPU of its own: streams that wait on one could hold up the other rank's.
class StagedGpu : public NcclGpu {
 protected:
  void SetUp() override {
    if (gpu_count() < 2) GTEST_SKIP() << "needs 2 GPUs";
  }
};

/// body(communicator) on two ranks, in a process of its own: one that has used CUDA cannot fork.
void on_staged_ranks(const StagedOptions& options, const std::function<bool(Communicator&)>& body) {
  const auto statuses = run_tcp_processes(1, [&](int) {
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);  // staged.hpp says why
    std::atomic<bool> good{true};
    run_ranks(2, [&](Communicator& host) {
      cudaSetDevice(host.rank());
      const auto communicator = make_staged_communicator(host, options);
      if (!body(*communicator)) good = false;
    });
    return good.load();
  });
  EXPECT_EQ(statuses[0], 0);
}

/// As wide as a small chunk, smaller, many of it, and not a multiple.
constexpr StagedOptions small_chunks{.chunk_bytes = 4096, .timeout = patience};

TEST_F(StagedGpu, Operations_GiveWhatTheirNamesSay) {
  on_staged_ranks(small_chunks, [](Communicator& comm) {
    EXPECT_OR_FAIL(comm.device() == Device::cuda);
    const auto me = static_cast<float>(comm.rank());
    const CudaStream stream;
    for (const std::size_t part : {1, 500, 512, 20'011}) {
      DeviceFloats in{Floats(2 * part, me + 1)};
      DeviceFloats out{2 * part};
      DeviceFloats half{Floats(part, me)};
      comm.allreduce(in.tensor(), out.tensor(), ReduceOp::sum, stream)->wait(patience);
      EXPECT_OR_FAIL(out.get() == Floats(2 * part, 3));
      comm.all_to_all(in.bytes(), out.bytes(), stream)->wait(patience);
      EXPECT_OR_FAIL(out.get()[0] == 1 && out.get()[2 * part - 1] == 2);
      comm.all_gather(half.bytes(), out.bytes(), stream)->wait(patience);
      EXPECT_OR_FAIL(out.get()[part - 1] == 0 && out.get()[part] == 1);
      comm.reduce_scatter(in.tensor(), half.tensor(), ReduceOp::avg, stream)->wait(patience);
      EXPECT_OR_FAIL(half.get() == Floats(part, 1.5f));
      if (comm.rank() == 0) half.put(Floats(part, 7));
      comm.broadcast(half.bytes(), 0, stream)->wait(patience);
      EXPECT_OR_FAIL(half.get() == Floats(part, 7));
      if (comm.rank() == 0) {
        comm.send(in.bytes(), 1, stream)->wait(patience);
      } else {
        comm.recv(out.bytes(), 0, stream)->wait(patience);
        EXPECT_OR_FAIL(out.get() == Floats(2 * part, 1));
      }
      comm.barrier()->wait(patience);
    }
    const auto alone = comm.split(comm.rank(), 0);
    DeviceFloats one{Floats(4, 1)};
    alone->allreduce(one.tensor(), one.tensor(), ReduceOp::sum, stream)->wait(patience);
    EXPECT_OR_FAIL(one.get()[0] == 1);
    return true;
  });
}

// Nothing waits on the host between the calls: the stream itself must keep the order.
TEST_F(StagedGpu, CallsInARow_AreOrderedByTheStream) {
  on_staged_ranks(small_chunks, [](Communicator& comm) {
    const CudaStream stream;
    const DeviceFloats data{Floats(50'000, 1)};
    for (int i = 0; i < 10; ++i) {
      comm.allreduce(data.tensor(), data.tensor(), ReduceOp::sum, stream);
    }
    stream.synchronize();
    EXPECT_OR_FAIL(data.get() == Floats(50'000, 1024));
    return true;
  });
}

class StagedEngine : public StagedGpu, public ::testing::WithParamInterface<const char*> {};

TEST_P(StagedEngine, ThreeSteps_EveryRank_HoldsTheReferenceBits) {
  const BucketLayout layout = make_buckets(std::vector<Parameter>{{"w", {70'000}}, {"b", {33}}},
                                           1 << 20, one_codec(parse_codec(GetParam())));
  const Bucket& bucket = layout.buckets[0];
  compress::TwoPhaseReference reference{{bucket.sections, bucket.spans, {.ranks = 2, .chunks = 2}}};
  std::vector<Floats> expected;
  for (int step = 0; step < 3; ++step) {
    std::vector<Floats> inputs;
    std::vector<ConstTensorView> views;
    for (int rank = 0; rank < 2; ++rank) {
      inputs.push_back(random_gradients(bucket.elements, rank, step));
    }
    for (auto& values : inputs) views.push_back(view_of(values));
    expected.emplace_back(static_cast<std::size_t>(bucket.elements));
    reference.allreduce(views, view_of(expected.back()),
                        {.sequence = static_cast<std::uint64_t>(step)});
  }
  on_staged_ranks(small_chunks, [&](Communicator& comm) {
    CudaEngine engine{comm, layout, {.chunks = 2, .algorithm = Algorithm::two_phase}};
    const CudaStream stream;
    for (int step = 0; step < 3; ++step) {
      const DeviceFloats gradients{random_gradients(bucket.elements, comm.rank(), step)};
      engine.submit(0, gradients.tensor(), stream);
      engine.end_step(stream);
      engine.synchronize();
      EXPECT_OR_FAIL(same_bits(gradients.get(), expected[static_cast<std::size_t>(step)]));
    }
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Codecs, StagedEngine, ::testing::Values("sign", "int8"));

TEST_F(StagedGpu, Abort_EndsWaitsAndFreesStreams) {
  on_staged_ranks(small_chunks, [](Communicator& comm) {
    const CudaStream stream;
    const DeviceFloats data{Floats(1000, 1)};
    comm.control().all_gather("", patience);
    if (comm.rank() == 1) {
      comm.abort("no more disk");
    } else {
      try {
        comm.allreduce(data.tensor(), data.tensor(), ReduceOp::sum, stream)->wait(patience);
        return false;
      } catch (const TransportError& error) {
        EXPECT_OR_FAIL(error.peer == 1);
        EXPECT_OR_FAIL(std::string{error.what()}.find("no more disk") != std::string::npos);
      }
    }
    stream.synchronize();  // and does not hang
    return true;
  });
}

TEST_F(StagedGpu, Capture_IsRefused) {
  on_staged_ranks(small_chunks, [](Communicator& comm) {
    const CudaStream stream;
    const DeviceFloats data{Floats(1000, 1)};
    cudaStreamBeginCapture(stream.view().handle(), cudaStreamCaptureModeThreadLocal);
    bool refused = false;
    try {
      comm.allreduce(data.tensor(), data.tensor(), ReduceOp::sum, stream);
    } catch (const InvalidArgument&) {
      refused = true;
    }
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream.view().handle(), &graph);
    cudaGraphDestroy(graph);
    EXPECT_OR_FAIL(refused);
    return true;
  });
}

}  // namespace
}  // namespace thinwire::comm
