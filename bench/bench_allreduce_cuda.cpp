// Time and bandwidth of the compressed allreduce on GPUs beside NCCL's own, in one run:
//   torchrun --no-python --nproc-per-node 4 build/bin/bench_allreduce_cuda -b 1M -e 400M --codec
//   none,sign launch/netlab --hosts 4 --rate 10gbit --gpus -- build/bin/bench_allreduce_cuda -b
//   100M -e 100M
// Columns as bench_allreduce; rows "nccl" are ncclAllReduce of the same elements and dtype on a
// communicator without thinwire, rows "thinwire" the same through Communicator::allreduce, and the
// codecs (none too) go through CudaEngine. --latency adds the two exchanges by themselves.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "allreduce_table.hpp"
#include "allreduce_values.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/comm/nccl_baseline.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace {

using namespace thinwire;
using bench::Bytes;
using bench::Row;

struct Options {
  std::string min_bytes = "1M";
  std::string max_bytes = "64M";
  int factor = 4;
  int iterations = 20;
  int warmup = 5;
  std::string check_up_to = "4M";
  std::string codecs = "none,bf16,sign";
  std::string dtype = "f32";
  int chunks = 1;
  bool latency = false;
  std::string json;
};

void try_cuda(cudaError_t code) {
  THINWIRE_EXPECTS(code == cudaSuccess, TransportError, cudaGetErrorString(code));
}

class Bench {
 public:
  Bench(comm::Communicator& communicator, const Options& options)
      : communicator_{communicator},
        options_{options},
        dtype_{parse_dtype(options.dtype)},
        baseline_{comm::make_nccl_baseline(communicator)} {}

  void run() {
    if (speaks()) {
      std::cout << fmt::format("# bench_allreduce_cuda: {} ranks, {} warm-up, {} timed calls\n",
                               communicator_.size(), options_.warmup, options_.iterations);
      bench::print_head();
    }
    const std::size_t last = bench::parse_bytes(options_.max_bytes);
    for (std::size_t bytes = bench::parse_bytes(options_.min_bytes); bytes <= last;
         bytes *= static_cast<std::size_t>(options_.factor)) {
      const auto elements = static_cast<std::int64_t>(bytes / size_of(dtype_));
      emit(measure_plain("nccl", elements,
                         [&](TensorView data) { baseline_->allreduce(data, stream_); }));
      emit(measure_plain("thinwire", elements, [&](TensorView data) {
        communicator_.allreduce(data, data, comm::ReduceOp::avg, stream_);
      }));
      for (const auto& codec : compress::parse_codec_list(options_.codecs)) {
        emit(measure_codec(codec, elements));
      }
    }
    if (options_.latency) measure_exchanges();
    if (speaks() && !options_.json.empty()) {
      std::ofstream file{options_.json};
      file << rows_.dump(2) << '\n';
      THINWIRE_EXPECTS(file.good(), IoError, fmt::format("cannot write '{}'", options_.json));
    }
  }

 private:
  bool speaks() const { return communicator_.rank() == 0; }

  void emit(const Row& row) {
    if (!speaks()) return;
    bench::print_row(row);
    rows_.push_back(bench::to_json(row));
  }

  Row row(const std::string& name, std::int64_t elements) const {
    return {.codec = name,
            .transport = "nccl",
            .ranks = communicator_.size(),
            .bytes = static_cast<std::size_t>(elements) * size_of(dtype_),
            .elements = elements,
            .dtype = dtype_};
  }

  /// Mean microseconds of `call` on the slowest rank.
  double time_calls(const std::function<void()>& call) {
    for (int i = 0; i < options_.warmup; ++i) call();
    stream_.synchronize();
    communicator_.control().all_gather("", config().timeout);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < options_.iterations; ++i) call();
    stream_.synchronize();
    const double us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count() /
        options_.iterations;
    double slowest = us;
    for (const auto& text :
         communicator_.control().all_gather(std::to_string(us), config().timeout)) {
      slowest = std::max(slowest, std::stod(text));
    }
    return slowest;
  }

  Row measure_plain(const char* name, std::int64_t elements,
                    const std::function<void(TensorView)>& call) {
    Row result = row(name, elements);
    const Buffer data{memory_, result.bytes, "bench"};
    try_cuda(cudaMemset(data.data(), 0, data.size()));
    const TensorView view{data.data(), elements, dtype_, Device::cuda};
    const auto n = static_cast<std::uint64_t>(communicator_.size());
    result.wire_bytes = 2 * (n - 1) * result.bytes / n;
    result.time_us = time_calls([&] { call(view); });
    return result;
  }

  Row measure_codec(const compress::CodecSpec& codec, std::int64_t elements) {
    Row result = row(compress::to_string(codec), elements);
    comm::BucketLayout layout;
    layout.buckets.push_back({dtype_, elements, {codec}, {{.parameter = "g", .length = elements}}});
    comm::CudaEngine engine{communicator_, layout, {.chunks = options_.chunks}};
    const compress::Plan plan{
        {codec},
        layout.buckets[0].spans,
        {.ranks = communicator_.size(), .dtype = dtype_, .chunks = options_.chunks}};
    const Bytes input = bench::make_input(plan, communicator_.rank(), elements, dtype_);
    const Buffer data{memory_, result.bytes, "bench"};
    try_cuda(cudaMemcpy(data.data(), input.data(), input.size(), cudaMemcpyHostToDevice));
    const TensorView view{data.data(), elements, dtype_, Device::cuda};
    const auto call = [&] {
      engine.submit(0, view, stream_);
      engine.end_step(stream_);
    };
    call();
    engine.synchronize();
    result.wire_bytes = engine.metrics().wire_bytes;
    if (result.bytes <= bench::parse_bytes(options_.check_up_to)) {
      Bytes out(input.size());
      stream_.synchronize();
      try_cuda(cudaMemcpy(out.data(), data.data(), out.size(), cudaMemcpyDeviceToHost));
      const Bytes expected = bench::expected_result(plan, communicator_.size(), elements, dtype_);
      result.wrong = bench::sum_over_ranks(communicator_,
                                           bench::count_different(out, expected, size_of(dtype_)));
    }
    result.time_us = time_calls(call);
    return result;
  }

  void measure_exchanges() {
    const auto ranks = static_cast<std::size_t>(communicator_.size());
    for (std::size_t bytes = 64 << 10; bytes <= 16 << 20; bytes *= 2) {
      const Buffer in{memory_, bytes, "bench"};
      const Buffer out{memory_, bytes, "bench"};
      const ConstByteView all{in.data(), bytes, Device::cuda};
      const ConstByteView part{in.data(), bytes / ranks, Device::cuda};
      const ByteView to{out.data(), bytes, Device::cuda};
      const auto measured = [&](const char* name, const std::function<void()>& call) {
        Row result = row(name, static_cast<std::int64_t>(bytes / size_of(dtype_)));
        result.wire_bytes = bytes / ranks * (ranks - 1);
        result.time_us = time_calls(call);
        emit(result);
      };
      measured("nccl_all_to_all", [&] { baseline_->all_to_all(all, to, stream_); });
      measured("all_to_all", [&] { communicator_.all_to_all(all, to, stream_); });
      measured("nccl_all_gather", [&] { baseline_->all_gather(part, to, stream_); });
      measured("all_gather", [&] { communicator_.all_gather(part, to, stream_); });
    }
  }

  comm::Communicator& communicator_;
  const Options& options_;
  DType dtype_;
  std::unique_ptr<comm::NcclBaseline> baseline_;
  CudaStream stream_;
  std::shared_ptr<MemoryResource> memory_ = std::make_shared<ExchangeMemory>();
  nlohmann::json rows_ = nlohmann::json::array();
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("-b,--minbytes", options.min_bytes, "smallest size")->capture_default_str();
  app.add_option("-e,--maxbytes", options.max_bytes, "largest size")->capture_default_str();
  app.add_option("-f,--stepfactor", options.factor, "factor between sizes")->capture_default_str();
  app.add_option("-n,--iters", options.iterations, "timed calls")->capture_default_str();
  app.add_option("-w,--warmup_iters", options.warmup, "calls before them")->capture_default_str();
  app.add_option("--check-up-to", options.check_up_to, "largest size compared with the reference")
      ->capture_default_str();
  app.add_option("--codec", options.codecs, "codecs, by commas")->capture_default_str();
  app.add_option("--dtype", options.dtype, "f32, f16 or bf16")->capture_default_str();
  app.add_option("--chunks", options.chunks, "chunks a bucket")->capture_default_str();
  app.add_flag("--latency", options.latency, "also all-to-all and all-gather, 64K to 16M");
  app.add_option("-J,--json", options.json, "write the rows to this file");
}

/// One GPU a process: the local rank's, where more than one is visible.
void choose_gpu() {
  int count = 0;
  try_cuda(cudaGetDeviceCount(&count));
  const char* text = std::getenv("LOCAL_RANK");
  if (text == nullptr) text = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  try_cuda(cudaSetDevice(text != nullptr ? std::atoi(text) % count : 0));
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Compressed allreduce on GPUs beside NCCL's own"};
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    choose_gpu();
    const auto communicator = comm::make_nccl_communicator(comm::tcp_rendezvous());
    try {
      Bench{*communicator, options}.run();
    } catch (const std::exception& error) {
      communicator->abort(error.what());
      throw;
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_allreduce_cuda: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
