// Buckets that come one by one, as PyTorch shows them, on real GPUs: as on the host.
#include <gtest/gtest.h>

#include "on_gpus.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

constexpr std::int64_t elements = 90'007;

/// The same parameters in buckets of at most so many bytes.
std::vector<Bucket> buckets_of(std::size_t cap, const char* codec) {
  const std::vector<Parameter> parameters{
      {"a", {30'000}}, {"b", {7}}, {"c", {50, 1000}}, {"d", {10'000}}};
  return make_buckets(parameters, cap, one_codec(compress::parse_codec(codec))).buckets;
}

/// What is done before a step: other buckets, or another codec.
struct Change {
  std::size_t cap;
  const char* codec;
};
const std::vector<Change> changes{
    {1 << 30, "int4"}, {50'000, "int4"}, {50'000, "sign"}, {50'000, "none"}, {1 << 30, "sign"}};

std::vector<Floats> host_steps(int ranks) {
  std::vector<Floats> means;
  run_ranks(ranks, [&](Communicator& communicator) {
    Engine engine{communicator, {}, {.threads = 1}};
    for (std::size_t step = 0; step < changes.size(); ++step) {
      Floats gradients = random_gradients(elements, communicator.rank(), static_cast<int>(step));
      std::size_t offset = 0;
      for (const Bucket& bucket : buckets_of(changes[step].cap, changes[step].codec)) {
        const auto count = static_cast<std::size_t>(bucket.elements);
        engine.submit(engine.add_bucket(bucket),
                      view_of(std::span{gradients}.subspan(offset, count)));
        offset += count;
      }
      engine.end_step();
      if (communicator.rank() == 0) means.push_back(gradients);
    }
  });
  return means;
}

TEST_F(NcclGpu, AddBucket_RebuiltAndRecoded_GivesTheHostsBits) {
  const int ranks = ranks_here();
  const auto expected = host_steps(ranks);
  on_gpus(ranks, [&](Communicator& comm) {
    CudaEngine engine{comm, {}};
    const CudaStream stream;
    for (std::size_t step = 0; step < changes.size(); ++step) {
      const DeviceFloats gradients{random_gradients(elements, comm.rank(), static_cast<int>(step))};
      auto* next = gradients.buffer.as<float>();
      for (const Bucket& bucket : buckets_of(changes[step].cap, changes[step].codec)) {
        engine.submit(engine.add_bucket(bucket), {next, bucket.elements, DType::f32, Device::cuda},
                      stream);
        next += bucket.elements;
      }
      engine.end_step(stream);
      engine.synchronize();
      const bool plain = std::string{changes[step].codec} == "none";
      // NCCL adds plain numbers in an order of its own.
      EXPECT_OR_FAIL(plain || same_bits(gradients.get(), expected[step]));
    }
    EXPECT_OR_FAIL(!engine.export_worker().empty());
    return true;
  });
}

TEST_F(NcclGpu, Restore_IntoOtherBuckets_ContinuesBitwise) {
  on_gpus(ranks_here(), [](Communicator& comm) {
    const auto run = [&](CudaEngine& engine, std::size_t cap, int step) {
      const CudaStream stream;
      const DeviceFloats gradients{random_gradients(elements, comm.rank(), step)};
      auto* next = gradients.buffer.as<float>();
      for (const Bucket& bucket : buckets_of(cap, "sign")) {
        engine.submit(engine.add_bucket(bucket), {next, bucket.elements, DType::f32, Device::cuda},
                      stream);
        next += bucket.elements;
      }
      engine.end_step(stream);
      engine.synchronize();
      return gradients.get();
    };
    CudaEngine unbroken{comm, {}};
    run(unbroken, 1 << 30, 0);
    CudaEngine resumed{comm, {}};
    run(resumed, 50'000, 7);
    resumed.restore(unbroken.export_worker(), unbroken.export_server());
    EXPECT_OR_FAIL(same_bits(run(resumed, 50'000, 1), run(unbroken, 1 << 30, 1)));
    return true;
  });
}

TEST_F(NcclGpu, AddBucket_InTheStepOfItsParameters_IsRefusedByName) {
  on_gpus(ranks_here(), [](Communicator& comm) {
    CudaEngine engine{comm, {}};
    const CudaStream stream;
    const auto bucket = buckets_of(1 << 30, "sign")[0];
    const DeviceFloats gradients{static_cast<std::size_t>(elements)};
    const auto index = engine.add_bucket(bucket);
    engine.submit(index, gradients.tensor(), stream);
    try {
      engine.add_bucket(bucket);
      return false;
    } catch (const InvalidArgument& error) {
      EXPECT_OR_FAIL(std::string{error.what()}.find("parameter 'a'") != std::string::npos);
    }
    engine.end_step(stream);
    engine.add_bucket(bucket);
    try {
      engine.plan(index);
      return false;
    } catch (const InvalidArgument& error) {
      EXPECT_OR_FAIL(std::string{error.what()}.find("has ended") != std::string::npos);
    }
    return true;
  });
}

}  // namespace
}  // namespace thinwire::comm
