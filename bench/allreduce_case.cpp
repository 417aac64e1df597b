#include "allreduce_case.hpp"

#include <fmt/format.h>

#include <bit>
#include <chrono>
#include <functional>

#include "allreduce_values.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"

namespace thinwire::bench {
namespace {

/// Mean microseconds of `call` on the slowest rank.
double time_calls(comm::Communicator& communicator, const Repeat& repeat,
                  const std::function<void()>& call) {
  for (int i = 0; i < repeat.warmup; ++i) call();
  communicator.barrier()->wait();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeat.iterations; ++i) call();
  const double us =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() /
      repeat.iterations;
  std::uint64_t slowest = std::bit_cast<std::uint64_t>(us);  // order of positive doubles = of bits
  communicator.allreduce_max({&slowest, 1})->wait();
  return std::bit_cast<double>(slowest);
}

}  // namespace

Row measure_codec(comm::Communicator& communicator, const compress::CodecSpec& codec,
                  std::int64_t elements, DType dtype, const Settings& settings,
                  const Repeat& repeat) {
  const int ranks = communicator.size();
  compress::Plan plan{{codec},
                      {{.parameter = "gradients", .length = elements}},
                      {.ranks = ranks, .dtype = dtype, .chunks = settings.chunks}};
  const Bytes input = make_input(plan, communicator.rank(), elements, dtype);
  Bytes gradients = input;
  const TensorView view{gradients.data(), elements, dtype};
  auto pool = std::make_shared<WorkerPool>(
      settings.threads > 0 ? settings.threads : comm::default_codec_threads(communicator));
  comm::CompressedAllreduce allreduce{communicator, plan, pool, default_memory(),
                                      settings.algorithm};

  Row row{.codec = compress::to_string(codec),
          .transport = std::string{communicator.transport()},
          .ranks = ranks,
          .bytes = gradients.size(),
          .elements = elements,
          .dtype = dtype};
  allreduce.run(view);
  allreduce.end_step(true);
  row.wire_bytes = allreduce.metrics().wire_bytes;
  if (repeat.check && (plan.plain() || settings.algorithm == comm::Algorithm::two_phase)) {
    const Bytes expected = expected_result(plan, ranks, elements, dtype);
    row.wrong = sum_over_ranks(communicator, count_different(gradients, expected, size_of(dtype)));
  }
  gradients = input;
  row.time_us = time_calls(communicator, repeat, [&] {
    allreduce.run(view);
    allreduce.end_step(true);
  });
  return row;
}

Row measure_peer(comm::Communicator& communicator, comm::MpiAllreduce algorithm,
                 std::int64_t elements, const Repeat& repeat) {
  const int ranks = communicator.size();
  Bytes values = make_tensor(elements, DType::f32,
                             [&](std::int64_t i) { return exact_value(communicator.rank(), i); });
  auto* data = reinterpret_cast<float*>(values.data());
  const auto baseline = comm::make_mpi_baseline(algorithm);

  const std::uint64_t n = static_cast<std::uint64_t>(ranks);
  Row row{.codec = algorithm == comm::MpiAllreduce::ring ? "mpi_ring" : "mpi",
          .transport = "mpi",
          .ranks = ranks,
          .bytes = values.size(),
          .elements = elements,
          .dtype = DType::f32,
          .wire_bytes = 2 * (n - 1) * values.size() / n};
  baseline->allreduce(data, elements);
  if (repeat.check) {
    const Bytes expected = make_tensor(elements, DType::f32, [&](std::int64_t i) {
      return exact_mean(ranks, i) * static_cast<float>(ranks);
    });
    row.wrong = sum_over_ranks(communicator, count_different(values, expected, 4));
  }
  row.time_us = time_calls(communicator, repeat, [&] { baseline->allreduce(data, elements); });
  return row;
}

}  // namespace thinwire::bench
