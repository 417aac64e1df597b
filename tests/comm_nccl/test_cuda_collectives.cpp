// The ways of CudaEngine beside the two-phase one, and the sharded collectives, on real GPUs.
#include <gtest/gtest.h>

#include <cmath>

#include "on_gpus.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/cuda_sharded.hpp"
#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/sharded.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using compress::parse_codec;

BucketLayout one_bucket(std::int64_t n, const char* codec) {
  return make_buckets(std::vector<Parameter>{{"w", {n}}}, std::size_t{1} << 30,
                      one_codec(parse_codec(codec)));
}

/// What the host's engine makes of the same gradients with the same algorithm, after each step.
std::vector<Floats> host_steps(const BucketLayout& layout, int ranks, Algorithm algorithm,
                               int steps) {
  std::vector<Floats> means;
  run_ranks(ranks, [&](Communicator& communicator) {
    Engine engine{communicator, layout, {.algorithm = algorithm, .threads = 1}};
    for (int step = 0; step < steps; ++step) {
      Floats gradients = random_gradients(layout.buckets[0].elements, communicator.rank(), step);
      engine.submit(0, view_of(gradients));
      engine.end_step();
      if (communicator.rank() == 0) means.push_back(gradients);
    }
  });
  return means;
}

double distance(const Floats& a, const Floats& b) {
  double apart = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    apart += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(apart / size);
}

class CudaSummable : public NcclGpu, public ::testing::WithParamInterface<const char*> {};

// NCCL adds bf16 in an order of its own, so the host's mean is met to bf16's rounding; with two
// ranks there is one order and the bits are the same.
TEST_P(CudaSummable, ThreeSteps_GiveTheHostsMean) {
  const int ranks = ranks_here();
  const BucketLayout layout = one_bucket(300'001, GetParam());
  const auto expected = host_steps(layout, ranks, Algorithm::summable, 3);
  on_gpus(ranks, [&](Communicator& comm) {
    CudaEngine engine{comm, layout, {.algorithm = Algorithm::summable}};
    const CudaStream stream;
    for (int step = 0; step < 3; ++step) {
      const DeviceFloats gradients{random_gradients(300'001, comm.rank(), step)};
      engine.submit(0, gradients.tensor(), stream);
      const auto number = engine.end_step(stream);
      engine.synchronize();
      EXPECT_OR_FAIL(engine.report(number) && !engine.report(number)->skipped);
      EXPECT_OR_FAIL(distance(gradients.get(), expected[static_cast<std::size_t>(step)]) < 4e-3);
    }
    // A ring's bytes of 2 an element, and no more.
    const auto metrics = engine.metrics();
    EXPECT_OR_FAIL(metrics.wire_bytes <= metrics.plain_wire_bytes / 2 + 3 * 4096);
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Codecs, CudaSummable, ::testing::Values("bf16", "bf16+ef"));

TEST_F(NcclGpu, Summable_NanOnOneRank_IsNanOnAllAndSkipsTheStep) {
  const int ranks = ranks_here();
  const BucketLayout layout = one_bucket(10'000, "bf16+ef");
  on_gpus(ranks, [&](Communicator& comm) {
    CudaEngine engine{
        comm,
        layout,
        {.commit = compress::Commit::double_buffered, .algorithm = Algorithm::summable}};
    const CudaStream stream;
    Floats values = random_gradients(10'000, comm.rank(), 0);
    if (comm.rank() == ranks - 1) values[5000] = std::nanf("");
    const DeviceFloats gradients{values};
    engine.submit(0, gradients.tensor(), stream);
    const auto number = engine.end_step(stream);
    engine.synchronize();
    EXPECT_OR_FAIL(engine.report(number) && engine.report(number)->skipped);
    EXPECT_OR_FAIL(std::isnan(gradients.get()[5000]));
    EXPECT_OR_FAIL(!std::isnan(gradients.get()[0]));
    for (const auto& residual : engine.export_worker()) {
      for (const float value : residual.values) EXPECT_OR_FAIL(value == 0);
    }
    return true;
  });
}

TEST_F(NcclGpu, AlgorithmThatCannotCarryTheCodec_IsRefusedByName) {
  on_gpus(ranks_here(), [](Communicator& comm) {
    for (const Algorithm algorithm : {Algorithm::summable, Algorithm::sparse}) {
      try {
        const CudaEngine engine{comm, one_bucket(1000, "sign"), {.algorithm = algorithm}};
        return false;
      } catch (const InvalidArgument& error) {
        EXPECT_OR_FAIL(std::string{error.what()}.find("sign") != std::string::npos);
      }
    }
    return true;
  });
}

class CudaTopk : public NcclGpu, public ::testing::WithParamInterface<Algorithm> {};

// Payloads are added in rank order on every device, so also the sparse way gives the host's bits.
TEST_P(CudaTopk, ThreeSteps_GiveTheHostsBits) {
  const int ranks = ranks_here();
  const BucketLayout layout = one_bucket(300'001, "topk:0.01");
  const auto expected = host_steps(layout, ranks, GetParam(), 3);
  on_gpus(ranks, [&](Communicator& comm) {
    CudaEngine engine{comm, layout, {.algorithm = GetParam()}};
    const CudaStream stream;
    for (int step = 0; step < 3; ++step) {
      const DeviceFloats gradients{random_gradients(300'001, comm.rank(), step)};
      engine.submit(0, gradients.tensor(), stream);
      engine.end_step(stream);
      engine.synchronize();
      EXPECT_OR_FAIL(same_bits(gradients.get(), expected[static_cast<std::size_t>(step)]));
    }
    EXPECT_OR_FAIL(engine.export_server().empty() ==
                   (GetParam() == Algorithm::sparse ||
                    (GetParam() == Algorithm::automatic && comm.size() <= 2)));
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Algorithms, CudaTopk,
                         ::testing::Values(Algorithm::automatic, Algorithm::two_phase,
                                           Algorithm::sparse));

double sum_of(const std::vector<compress::Residual>& residuals) {
  double sum = 0;
  for (const auto& residual : residuals) {
    for (const float value : residual.values) sum += value;
  }
  return sum;
}

// As the host's: another bucketing gives blocks other owners, and every residual must arrive.
TEST_F(NcclGpu, TakeOver_OtherBuckets_MovesEveryResidual) {
  const int ranks = ranks_here();
  const std::vector<Parameter> parameters{{"a", {5000}}, {"b", {40'000}}, {"c", {7}}};
  const auto rule = one_codec(parse_codec("sign"));
  on_gpus(ranks, [&](Communicator& comm) {
    CudaEngine first{comm, make_buckets(parameters, 1 << 30, rule)};
    CudaEngine second{comm, make_buckets(parameters, 64'000, rule)};
    const CudaStream stream;
    const DeviceFloats gradients{random_gradients(45'007, comm.rank(), 0)};
    first.submit(0, gradients.tensor(), stream);
    first.end_step(stream);
    first.synchronize();
    second.take_over(first);
    EXPECT_OR_FAIL(sum_of(first.export_worker()) == sum_of(second.export_worker()));
    const auto total = [&](double mine) {
      double sum = 0;
      for (const auto& text : comm.control().all_gather(std::to_string(mine), patience)) {
        sum += std::stod(text);
      }
      return sum;
    };
    const double before = total(sum_of(first.export_server()));
    EXPECT_OR_FAIL(before != 0);
    EXPECT_OR_FAIL(std::abs(before - total(sum_of(second.export_server()))) < 1e-3);
    return true;
  });
}

/// Uneven: an empty shard where there are more than two, and one that ends within a block.
std::vector<std::int64_t> uneven_boundaries(int ranks, std::int64_t n) {
  std::vector<std::int64_t> boundaries{0};
  for (int rank = 1; rank < ranks; ++rank) boundaries.push_back(rank == 1 ? 7 : n * rank / ranks);
  boundaries.push_back(n);
  return boundaries;
}

std::size_t at(int rank) { return static_cast<std::size_t>(rank); }

class CudaShards : public NcclGpu,
                   public ::testing::WithParamInterface<std::tuple<const char*, int>> {};

// Two steps, so that residuals take part.
TEST_P(CudaShards, ReduceScatter_GivesTheHostsBits) {
  const auto [codec, chunks] = GetParam();
  const int ranks = ranks_here();
  const std::int64_t n = 100'000;
  const auto boundaries = uneven_boundaries(ranks, n);
  const compress::Plan plan{{parse_codec(codec)},
                            {{.parameter = "a", .length = 60'000},
                             {.parameter = "b", .source_offset = 60'000, .length = 40'000}},
                            {.ranks = ranks,
                             .operation = compress::Operation::reduce_scatter,
                             .chunks = chunks,
                             .boundaries = boundaries}};
  std::vector<std::vector<Floats>> expected(at(ranks));  // [rank][step]
  run_ranks(ranks, [&](Communicator& comm) {
    CompressedReduceScatter host{comm, plan, std::make_shared<WorkerPool>(1), default_memory()};
    for (int step = 0; step < 2; ++step) {
      Floats out(
          at(static_cast<int>(boundaries[at(comm.rank()) + 1] - boundaries[at(comm.rank())])));
      host.run(const_view_of(random_gradients(n, comm.rank(), step)), view_of(out));
      host.end_step(true);
      expected[at(comm.rank())].push_back(out);
    }
  });
  on_gpus(ranks, [&](Communicator& comm) {
    CudaReduceScatter reduce_scatter{comm, plan};
    const CudaStream stream;
    for (int step = 0; step < 2; ++step) {
      const DeviceFloats gradients{random_gradients(n, comm.rank(), step)};
      const Floats& wanted = expected[at(comm.rank())][at(step)];
      const DeviceFloats out{wanted.size()};
      reduce_scatter.run(gradients.tensor(), out.tensor(), stream);
      const auto number = reduce_scatter.end_step(stream);
      reduce_scatter.synchronize();
      EXPECT_OR_FAIL(reduce_scatter.report(number) && !reduce_scatter.report(number)->skipped);
      EXPECT_OR_FAIL(same_bits(out.get(), wanted));
    }
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Codecs, CudaShards,
                         ::testing::Combine(::testing::Values("sign", "int8", "bf16+ef"),
                                            ::testing::Values(1, 3)));

TEST_F(NcclGpu, ReduceScatter_NanInOneShard_SkipsTheStepOnAllRanks) {
  const int ranks = ranks_here();
  const std::int64_t n = 20'000;
  const compress::Plan plan{{parse_codec("sign")},
                            {{.parameter = "a", .length = n}},
                            {.ranks = ranks,
                             .operation = compress::Operation::reduce_scatter,
                             .commit = compress::Commit::double_buffered,
                             .boundaries = uneven_boundaries(ranks, n)}};
  on_gpus(ranks, [&](Communicator& comm) {
    CudaReduceScatter reduce_scatter{comm, plan};
    const CudaStream stream;
    Floats values = random_gradients(n, comm.rank(), 0);
    if (comm.rank() == 0) values.back() = INFINITY;  // of the last rank's shard
    const DeviceFloats gradients{values};
    const auto& boundaries = plan.settings().boundaries;
    const DeviceFloats out{
        at(static_cast<int>(boundaries[at(comm.rank()) + 1] - boundaries[at(comm.rank())]))};
    reduce_scatter.run(gradients.tensor(), out.tensor(), stream);
    const auto number = reduce_scatter.end_step(stream);
    reduce_scatter.synchronize();
    EXPECT_OR_FAIL(reduce_scatter.report(number) && reduce_scatter.report(number)->skipped);
    for (const auto& residual : reduce_scatter.state().export_worker(stream)) {
      for (const float value : residual.values) EXPECT_OR_FAIL(value == 0);
    }
    return true;
  });
}

TEST_F(NcclGpu, AllGather_UnevenShards_GivesTheHostsBits) {
  const int ranks = ranks_here();
  const std::int64_t n = 50'000;
  const auto boundaries = uneven_boundaries(ranks, n);
  const Floats whole = random_gradients(n, 42, 0);
  const auto shard_of = [&](int rank) {
    return Floats(whole.begin() + boundaries[at(rank)], whole.begin() + boundaries[at(rank) + 1]);
  };
  const std::vector<compress::Span> spans{{.parameter = "w", .length = n}};
  Floats expected(at(static_cast<int>(n)));
  run_ranks(ranks, [&](Communicator& comm) {
    CompressedAllGather host{
        comm,       parse_codec("int8+noef"),        spans,           DType::f32,
        boundaries, std::make_shared<WorkerPool>(1), default_memory()};
    Floats out(expected.size());
    host.run(const_view_of(shard_of(comm.rank())), view_of(out));
    if (comm.rank() == 0) expected = out;
  });
  on_gpus(ranks, [&](Communicator& comm) {
    CudaAllGather all_gather{comm, parse_codec("int8+noef"), spans, DType::f32, boundaries};
    const CudaStream stream;
    const DeviceFloats mine{shard_of(comm.rank())};
    const DeviceFloats out{expected.size()};
    for (int call = 0; call < 2; ++call) {
      const auto number = all_gather.run(mine.tensor(), out.tensor(), stream);
      all_gather.synchronize();
      EXPECT_OR_FAIL(all_gather.report(number) && !all_gather.report(number)->failed);
      EXPECT_OR_FAIL(same_bits(out.get(), expected));
    }
    return true;
  });
}

// Plain buckets of one step: coalesced, over the engine's stream, and over the caller's own.
TEST_F(NcclGpu, PlainBuckets_OnEveryWay_AreTheMean) {
  const int ranks = ranks_here();
  const std::vector<Parameter> parameters{{"a", {100}}, {"b", {500'000}}, {"c", {200}}};
  const BucketLayout layout = make_buckets(parameters, 1000, one_codec(parse_codec("none")));
  const float mean = static_cast<float>(ranks - 1) / 2;
  on_gpus(ranks, [&](Communicator& comm) {
    CudaEngine engine{comm, layout};
    const CudaStream stream;
    const CudaStream other;
    for (int step = 0; step < 4; ++step) {
      std::vector<DeviceFloats> gradients;
      for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
        gradients.emplace_back(Floats(at(static_cast<int>(layout.buckets[b].elements)),
                                      static_cast<float>(comm.rank())));
        engine.submit(b, gradients.back().tensor(), stream);
      }
      if (step % 2 == 1) engine.wait(2, other);
      if (step == 3) engine.wait(0, stream);
      engine.end_step(step == 2 ? other : stream);
      engine.synchronize();
      stream.synchronize();
      other.synchronize();
      for (const auto& bucket : gradients) {
        for (const float value : bucket.get()) EXPECT_OR_FAIL(value == mean);
      }
    }
    return true;
  });
}

}  // namespace
}  // namespace thinwire::comm
