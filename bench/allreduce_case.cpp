#include "allreduce_case.hpp"

#include <bit>
#include <chrono>
#include <functional>

#include "allreduce_values.hpp"
#include "thinwire/comm/mpi_baseline.hpp"

namespace thinwire::bench {
namespace {

class HostCases final : public AllreduceCases {
 public:
  HostCases(comm::Communicator& communicator, const Settings& settings)
      : communicator_{communicator}, settings_{settings} {}

  std::vector<Row> peers(std::int64_t elements) override {
    std::vector<Row> rows;
    if (communicator_.transport() != "mpi" || settings_.dtype != DType::f32) return rows;
    for (const auto algorithm : {comm::MpiAllreduce::picked, comm::MpiAllreduce::ring}) {
      rows.push_back(peer(algorithm, elements));
    }
    return rows;
  }

  Row codec(const compress::CodecSpec& codec, std::int64_t elements) override {
    const int ranks = communicator_.size();
    const DType dtype = settings_.dtype;
    compress::Plan plan{{codec},
                        {{.parameter = "gradients", .length = elements}},
                        {.ranks = ranks, .dtype = dtype, .chunks = chunks_of(elements)}};
    const Bytes input = make_input(plan, communicator_.rank(), elements, dtype);
    Bytes gradients = input;
    const TensorView view{gradients.data(), elements, dtype};
    auto pool = std::make_shared<WorkerPool>(
        settings_.threads > 0 ? settings_.threads : comm::default_codec_threads(communicator_));
    comm::CompressedAllreduce allreduce{communicator_, plan, pool, default_memory(),
                                        settings_.algorithm};

    Row result = row(compress::to_string(codec), elements);
    allreduce.run(view);
    allreduce.end_step(true);
    result.wire_bytes = allreduce.metrics().wire_bytes;
    if (settings_.checks(plan, gradients.size())) {
      const Bytes expected = expected_result(plan, ranks, elements, dtype);
      result.wrong =
          sum_over_ranks(communicator_, count_different(gradients, expected, size_of(dtype)));
    }
    gradients = input;
    result.time_us = time_calls([&] {
      allreduce.run(view);
      allreduce.end_step(true);
    });
    return result;
  }

  std::vector<Row> exchanges(std::size_t bytes) override {
    const auto ranks = static_cast<std::size_t>(communicator_.size());
    const Bytes in(bytes);
    Bytes out(bytes);
    const ConstByteView all{in.data(), bytes};
    const ConstByteView part{in.data(), bytes / ranks};
    const ByteView to{out.data(), bytes};
    std::vector<Row> rows;
    const auto measured = [&](const char* name, const std::function<void()>& call) {
      Row result = row(name, static_cast<std::int64_t>(bytes / size_of(settings_.dtype)));
      result.wire_bytes = bytes / ranks * (ranks - 1);
      result.time_us = time_calls(call);
      rows.push_back(result);
    };
    measured("all_to_all", [&] { communicator_.all_to_all(all, to)->wait(); });
    measured("all_gather", [&] { communicator_.all_gather(part, to)->wait(); });
    return rows;
  }

 private:
  /// Where the wire is as slow as the codec, one piece is on it while the next is coded.
  int chunks_of(std::int64_t elements) const {
    if (settings_.chunks > 0) return settings_.chunks;
    const bool several_machines = communicator_.local_size() < communicator_.size();
    return several_machines && elements >= std::int64_t{4} << 20 ? 4 : 1;
  }

  Row row(std::string codec, std::int64_t elements) const {
    return {.codec = std::move(codec),
            .transport = std::string{communicator_.transport()},
            .ranks = communicator_.size(),
            .bytes = static_cast<std::size_t>(elements) * size_of(settings_.dtype),
            .elements = elements,
            .dtype = settings_.dtype};
  }

  /// MPI's own MPI_Allreduce of fp32; codec "mpi" or "mpi_ring".
  Row peer(comm::MpiAllreduce algorithm, std::int64_t elements) {
    const int ranks = communicator_.size();
    Bytes values = make_tensor(
        elements, DType::f32, [&](std::int64_t i) { return exact_value(communicator_.rank(), i); });
    auto* data = reinterpret_cast<float*>(values.data());
    const auto baseline = comm::make_mpi_baseline(algorithm);
    Row result = row(algorithm == comm::MpiAllreduce::ring ? "mpi_ring" : "mpi", elements);
    result.wire_bytes = ring_bytes(values.size(), ranks);
    baseline->allreduce(data, elements);
    if (settings_.checks(values.size())) {
      const Bytes expected =
          make_tensor(elements, DType::f32, [&](std::int64_t i) { return exact_sum(ranks, i); });
      result.wrong = sum_over_ranks(communicator_, count_different(values, expected, 4));
    }
    result.time_us = time_calls([&] { baseline->allreduce(data, elements); });
    return result;
  }

  /// Mean microseconds of `call` on the slowest rank.
  double time_calls(const std::function<void()>& call) {
    for (int i = 0; i < settings_.warmup; ++i) call();
    communicator_.barrier()->wait();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < settings_.iterations; ++i) call();
    const double us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count() /
        settings_.iterations;
    std::uint64_t slowest = std::bit_cast<std::uint64_t>(us);  // positive doubles order as bits
    communicator_.allreduce_max({&slowest, 1})->wait();
    return std::bit_cast<double>(slowest);
  }

  comm::Communicator& communicator_;
  const Settings& settings_;
};

}  // namespace

std::unique_ptr<AllreduceCases> make_host_cases(comm::Communicator& communicator,
                                                const Settings& settings) {
  return std::make_unique<HostCases>(communicator, settings);
}

}  // namespace thinwire::bench
