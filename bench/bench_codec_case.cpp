#include "bench_codec_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "bench_codec_floor.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::bench {
namespace {

using namespace compress;  // NOLINT: a program about this namespace

double milliseconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Buffer allocate(std::size_t bytes) {
  Buffer buffer{std::make_shared<HostMemory>(), bytes, "bench"};
  if (bytes > 0) std::memset(buffer.data(), 0, bytes);
  return buffer;
}

/// A number of any index without a state: mix64 of it, by Box and Muller.
float gaussian(std::uint64_t index) {
  const std::uint64_t bits = mix64(index + 1);
  const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
  const float v = static_cast<float>(bits >> 8 & 0xFFFFFFu) * 0x1p-24f;
  return std::sqrt(-2.0f * std::log(u)) * std::cos(6.2831853f * v);
}

}  // namespace

Plan plan_of(const CodecCase& wanted) {
  Span span;
  span.parameter = "bench";
  span.length = wanted.elements;
  PlanSettings settings;
  settings.ranks = wanted.ranks;
  settings.dtype = wanted.dtype;
  settings.commit = wanted.commit;
  if (wanted.op == "reduce_encode") {
    // All elements in the shard of the owner that is measured.
    settings.boundaries.assign(static_cast<std::size_t>(wanted.ranks) + 1, wanted.elements);
    settings.boundaries[0] = 0;
  }
  return Plan{{wanted.spec}, {span}, settings};
}

float value_of(const std::string& name, std::int64_t i, std::uint64_t seed) {
  if (name == "constant") return 1e-3f;
  const float value = 1e-3f * gaussian(static_cast<std::uint64_t>(i) + (seed << 40));
  if (name == "gaussian") return value;
  // Parameters of 123,457 elements; the scales go over four orders of magnitude.
  return value * std::pow(10.0f, -4.0f *
                                     static_cast<float>(
                                         mix64(static_cast<std::uint64_t>(i / 123'457)) % 1000u) /
                                     1000.0f);
}

namespace {

/// Gradients and everything that the verbs need, and the arrays for the floor among them.
class CodecBench {
 public:
  explicit CodecBench(const CodecCase& wanted)
      : case_{wanted},
        n_{static_cast<std::size_t>(wanted.elements)},
        pool_{std::make_shared<WorkerPool>(wanted.threads)},
        plan_{plan_of(wanted)},
        coder_{make_host_coder(plan_, pool_)},
        state_{plan_, 0, std::make_shared<HostMemory>()},
        numbers_{allocate((n_ + 64) * sizeof(float))},
        spare_{allocate(floor_elements() * sizeof(float))},
        bits_{allocate(floor_elements() / 8)},
        sent_{allocate(plan_.payload_bytes(Phase::reduce))},
        reduced_{allocate(plan_.payload_bytes(Phase::gather))} {
    const std::size_t skipped = wanted.aligned ? 0 : size_of(wanted.dtype);
    gradients_ = {numbers_.data() + skipped, wanted.elements, wanted.dtype, Device::host};
    if (wanted.dtype != DType::f32) floor_numbers_ = allocate(floor_elements() * sizeof(float));
    fill(0);
    if (wanted.op == "reduce_encode") prepare_reduce();
    if (wanted.op == "decode") prepare_decode();
  }

  void run() {
    if (case_.op == "encode") {
      coder_->encode(0, gradients_, state_, {}, slots(sent_, Phase::reduce));
    } else if (case_.op == "reduce_encode") {
      coder_->reduce_encode(0, slots(sent_, Phase::reduce), state_, {},
                            slots(reduced_, Phase::gather).first(gather_bytes()));
    } else {
      coder_->decode(0, slots(reduced_, Phase::gather), {}, gradients_);
    }
    state_.discard();
  }

  void run_floor(int variant, bool subtract) {
    const Buffer& g = floor_numbers_.size() > 0 ? floor_numbers_ : numbers_;
    floor_pass(variant, *pool_, {g.as<float>(), floor_elements()},
               {floor_residual(), floor_elements()}, {bits_.data(), bits_.size()}, subtract);
  }

  bool has_fill() const { return case_.op == "decode" && case_.dtype == DType::f32; }
  void run_fill(bool streamed) {
    fill_pass(streamed, *pool_, {numbers_.as<float>(), floor_elements()});
  }

  void run_memcpy() { std::memcpy(spare_.data(), numbers_.data(), floor_elements() * 4); }

 private:
  std::size_t floor_elements() const { return n_ / 64 * 64; }
  std::size_t gather_bytes() const { return plan_.slot_bytes(0, Phase::gather); }

  /// The residual that the verb works on, or as good a buffer where there is none.
  float* floor_residual() {
    if (case_.spec.feedback == Feedback::none || case_.op == "decode") return spare_.as<float>();
    return case_.op == "encode" ? state_.worker_next() : state_.server_next();
  }

  static std::span<std::byte> slots(const Buffer& buffer, Phase) {
    return {buffer.data(), buffer.size()};
  }

  void fill(std::uint64_t seed) {
    visit_dtype(case_.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* to = static_cast<T*>(gradients_.data);
      pool_->parallel_for(static_cast<std::int64_t>(n_ / 65536 + 1), [&](std::int64_t item) {
        const std::int64_t end = std::min(case_.elements, (item + 1) * 65536);
        for (std::int64_t i = item * 65536; i < end; ++i) {
          to[i] = from_float<T>(value_of(case_.data, i, seed));
        }
      });
    });
  }

  /// Slots of all ranks for shard 0.
  void prepare_reduce() {
    const std::size_t bytes = plan_.slot_bytes(0, Phase::reduce);
    const Buffer one = allocate(sent_.size());
    for (int rank = 0; rank < case_.ranks; ++rank) {
      fill(static_cast<std::uint64_t>(rank));
      coder_->encode(0, gradients_, state_, {}, slots(one, Phase::reduce));
      state_.discard();
      std::memcpy(sent_.data() + static_cast<std::size_t>(rank) * bytes, one.data(), bytes);
    }
  }

  /// What every owner makes of N times the same slot.
  void prepare_decode() {
    coder_->encode(0, gradients_, state_, {}, slots(sent_, Phase::reduce));
    const std::size_t bytes = plan_.slot_bytes(0, Phase::reduce);
    const Buffer same = allocate(sent_.size());
    for (int shard = 0; shard < case_.ranks; ++shard) {
      for (int rank = 0; rank < case_.ranks; ++rank) {
        std::memcpy(same.data() + static_cast<std::size_t>(rank) * bytes,
                    sent_.data() + static_cast<std::size_t>(shard) * bytes, bytes);
      }
      State owner{plan_, shard, std::make_shared<HostMemory>()};
      coder_->reduce_encode(
          0, slots(same, Phase::reduce), owner, {},
          slots(reduced_, Phase::gather)
              .subspan(static_cast<std::size_t>(shard) * gather_bytes(), gather_bytes()));
    }
  }

  CodecCase case_;
  std::size_t n_;
  std::shared_ptr<WorkerPool> pool_;
  Plan plan_;
  std::unique_ptr<Coder> coder_;
  State state_;
  Buffer numbers_;
  Buffer floor_numbers_;
  Buffer spare_;
  Buffer bits_;
  Buffer sent_;
  Buffer reduced_;
  TensorView gradients_;
};

}  // namespace

double floor_bytes(const CodecCase& wanted) {
  const auto gradient = static_cast<double>(size_of(wanted.dtype));
  const auto payload = [&](double density) {
    switch (wanted.spec.codec) {
      case Codec::none:
        return 4.0;
      case Codec::bf16:
        return 2.0;
      case Codec::fp16:
        return 2.0 + 4.0 / 1024;
      case Codec::int8:
        return 1.0 + 4.0 / 256;
      case Codec::int4:
        return 0.5 + 4.0 / 128;
      case Codec::sign:
        return 0.125 + 4.0 / 1024;
      default:
        return 4.0 * density;
    }
  };
  const bool ef = wanted.spec.feedback == Feedback::ef;
  const bool topk = wanted.spec.codec == Codec::topk;
  const double sent = payload(wanted.spec.density);
  const double sent_back = payload(wanted.spec.density_out);
  if (wanted.op == "decode") return gradient + sent_back;
  const double residual = ef ? 8.0 : 0.0;
  if (wanted.op == "reduce_encode") return residual + sent_back + wanted.ranks * sent;
  // Exact top-k reads x a second time and writes the residuals of its entries: 16.2 at 1 %.
  if (topk) return gradient + residual + 4.0 + 5.0 * sent;
  return gradient + residual + sent;
}

CodecTimes measure(const CodecCase& wanted, int repetitions) {
  force_simd_target("");
  CodecBench bench{wanted};
  std::vector<double> floors[floor_passes];
  std::vector<double> copies;
  std::vector<double> fills[2];
  std::vector<double> times;
  bench.run();
  for (int i = 0; i < repetitions; ++i) {
    force_simd_target("");
    for (int variant = 0; variant < floor_passes; ++variant) {
      const bool subtract = variant % 2 != 0;  // an even number of passes leaves the residual
      floors[variant].push_back(milliseconds([&] { bench.run_floor(variant, subtract); }));
    }
    copies.push_back(milliseconds([&] { bench.run_memcpy(); }));
    for (const bool streamed : {false, true}) {
      if (!bench.has_fill()) break;
      fills[streamed].push_back(milliseconds([&] { bench.run_fill(streamed); }));
    }
    force_simd_target(wanted.target);
    times.push_back(milliseconds([&] { bench.run(); }));
  }
  force_simd_target("");
  CodecTimes result{median(times), median(floors[0]), median(copies), 0};
  if (bench.has_fill()) result.fill_ms = std::min(median(fills[0]), median(fills[1]));
  for (const auto& floor : floors) result.rmw_ms = std::min(result.rmw_ms, median(floor));
  return result;
}

double nth_element_ms(const CodecCase& wanted, int repetitions) {
  const auto n = static_cast<std::ptrdiff_t>(wanted.elements);
  const auto k = static_cast<std::ptrdiff_t>(wanted.spec.density * static_cast<double>(n));
  std::vector<float> magnitudes(static_cast<std::size_t>(n));
  for (std::ptrdiff_t i = 0; i < n; ++i) {
    magnitudes[static_cast<std::size_t>(i)] = std::fabs(value_of(wanted.data, i, 0));
  }
  std::vector<float> x(magnitudes.size());
  std::vector<double> falling;
  std::vector<double> rising;
  for (int i = 0; i < repetitions; ++i) {
    // From another start each time: the time depends on the luck of the first pivots.
    const auto start = magnitudes.begin() + n / repetitions * i;
    std::rotate_copy(magnitudes.begin(), start, magnitudes.end(), x.begin());
    falling.push_back(milliseconds(
        [&] { std::nth_element(x.begin(), x.begin() + k, x.end(), std::greater<>{}); }));
    std::rotate_copy(magnitudes.begin(), start, magnitudes.end(), x.begin());
    rising.push_back(
        milliseconds([&] { std::nth_element(x.begin(), x.begin() + (n - k), x.end()); }));
  }
  return std::min(median(falling), median(rising));
}

}  // namespace thinwire::bench
