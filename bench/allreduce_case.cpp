#include "allreduce_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/compress/two_phase_reference.hpp"
#include "thinwire/core/config.hpp"

namespace thinwire::bench {
namespace {

using Bytes = std::vector<std::byte>;

/// Roughly gaussian values that every rank can make for every other.
float gradient_value(int rank, std::int64_t i) {
  const std::uint64_t bits =
      compress::mix64(static_cast<std::uint64_t>(i) << 8 | static_cast<std::uint64_t>(rank));
  std::int32_t sum = 0;
  for (int shift = 0; shift < 64; shift += 16) sum += static_cast<std::int16_t>(bits >> shift);
  return static_cast<float>(sum) * 0x1p-17f;
}

/// Values whose mean over ranks is exact in every dtype: small integers, halves at most.
float exact_value(int rank, std::int64_t i) { return static_cast<float>(i % 17 + rank); }
float exact_mean(int ranks, std::int64_t i) {
  return static_cast<float>(i % 17) + static_cast<float>(ranks - 1) / 2;
}

Bytes make_tensor(std::int64_t elements, DType dtype,
                  const std::function<float(std::int64_t)>& value) {
  Bytes bytes(static_cast<std::size_t>(elements) * size_of(dtype));
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* data = reinterpret_cast<T*>(bytes.data());
    for (std::int64_t i = 0; i < elements; ++i) data[i] = from_float<T>(value(i));
  });
  return bytes;
}

std::int64_t count_different(const Bytes& a, const Bytes& b, std::size_t width) {
  std::int64_t different = 0;
  for (std::size_t i = 0; i < a.size(); i += width) {
    different += std::memcmp(a.data() + i, b.data() + i, width) != 0;
  }
  return different;
}

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

std::int64_t sum_over_ranks(comm::Communicator& communicator, std::int64_t value) {
  std::int64_t sum = 0;
  for (const auto& text :
       communicator.control().all_gather(std::to_string(value), config().timeout)) {
    sum += std::stoll(text);
  }
  return sum;
}

/// Bits of the first call on fresh residuals.
Bytes expected_result(const compress::Plan& plan, int ranks, std::int64_t elements, DType dtype) {
  if (plan.plain()) {
    return make_tensor(elements, dtype, [&](std::int64_t i) { return exact_mean(ranks, i); });
  }
  std::vector<Bytes> inputs;
  std::vector<ConstTensorView> views;
  for (int rank = 0; rank < ranks; ++rank) {
    inputs.push_back(
        make_tensor(elements, dtype, [&](std::int64_t i) { return gradient_value(rank, i); }));
    views.emplace_back(inputs.back().data(), elements, dtype);
  }
  Bytes out(inputs.front().size());
  compress::TwoPhaseReference reference{plan};
  reference.allreduce(views, {out.data(), elements, dtype}, {.sequence = 1});
  return out;
}

}  // namespace

Row measure_codec(comm::Communicator& communicator, const compress::CodecSpec& codec,
                  std::int64_t elements, DType dtype, const Settings& settings,
                  const Repeat& repeat) {
  const int ranks = communicator.size();
  const int rank = communicator.rank();
  compress::Plan plan{{codec},
                      {{.parameter = "gradients", .length = elements}},
                      {.ranks = ranks, .dtype = dtype, .chunks = settings.chunks}};
  const Bytes input = make_tensor(elements, dtype, [&](std::int64_t i) {
    return plan.plain() ? exact_value(rank, i) : gradient_value(rank, i);
  });
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
