// Time of the codec's verbs on one GPU, beside two passes that only move bytes:
//   bench_codec_cuda -n 1e8 --codec sign,int8 --dtype fp32,bf16 -J out.json
// floor copy: the verb's bytes at the rate of a device-to-device copy of the same run; floor mix:
// at the rate of e = g + e. Share = floor time / time.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cuda_floors.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/core/cuda/device.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace {

using namespace thinwire;
using namespace thinwire::compress;

struct Options {
  std::vector<double> sizes{1e8, 2.5e5};
  std::string codecs = "sign,int8,int4,bf16+ef,fp16,topk:0.01,topk:0.001";
  std::vector<std::string> dtypes{"fp32", "bf16"};
  std::vector<int> ranks{4, 8};
  std::string commit = "in_place";
  int repetitions = 9;
  std::string json;
};

void check(cudaError_t code) {
  if (code != cudaSuccess) throw Error{cudaGetErrorString(code)};
}

/// Everything on one stream; times by replaying a graph of several calls.
class Bench {
 public:
  explicit Bench(const Options& options) : options_{options} {
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  ~Bench() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  StreamView stream() const { return stream_.view(); }
  const std::shared_ptr<MemoryResource>& memory() const { return memory_; }
  Buffer buffer(std::size_t bytes) const { return Buffer{memory_, bytes, "bench"}; }

  /// Median microseconds of one call. Calls are replayed from a graph, so that the host's own time
  /// does not count, or enqueued one by one.
  double time(const std::function<void()>& enqueue, bool graph_of_calls = true) const {
    if (!graph_of_calls) return median(enqueue, 1);
    constexpr int calls = 8;
    check(cudaStreamBeginCapture(stream().handle(), cudaStreamCaptureModeGlobal));
    for (int i = 0; i < calls; ++i) enqueue();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream().handle(), &graph));
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, graph, 0));
    const double microseconds =
        median([&] { check(cudaGraphLaunch(executable, stream().handle())); }, calls);
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    return microseconds;
  }

 private:
  double median(const std::function<void()>& enqueue, int calls) const {
    std::vector<double> times;
    for (int i = 0; i < options_.repetitions + 1; ++i) {
      check(cudaEventRecord(start_, stream().handle()));
      enqueue();
      check(cudaEventRecord(stop_, stream().handle()));
      check(cudaEventSynchronize(stop_));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, start_, stop_));
      if (i > 0) times.push_back(1e3 * milliseconds / calls);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  Options options_;
  CudaStream stream_;
  std::shared_ptr<MemoryResource> memory_ = std::make_shared<DeviceMemory>(stream_.view());
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

/// Bytes a microsecond of the two floors at n elements.
struct Floors {
  double copy = 0;
  double mix = 0;
};

struct Row {
  std::string codec;
  std::string verb;
  std::string dtype;
  std::int64_t n = 0;
  int ranks = 1;
  bool aligned = true;
  double microseconds = 0;
  double bytes = 0;
};

class Report {
 public:
  void add(const Row& row, const Floors& floors) {
    const double copy = row.bytes / floors.copy / row.microseconds;
    const double mix = row.bytes / floors.mix / row.microseconds;
    fmt::print("{:<12} {:<14} {:<5} {:>11} {:>3} {:<9} {:>10.2f} {:>7.3f} {:>6.3f} {:>6.3f}\n",
               row.codec, row.verb, row.dtype, row.n, row.ranks,
               row.aligned ? "aligned" : "unaligned", row.microseconds,
               row.bytes / static_cast<double>(row.n), copy, mix);
    std::fflush(stdout);
    for (const auto& [floor, share] : {std::pair{"copy", copy}, std::pair{"mix", mix}}) {
      rows_.push_back({{"device", "cuda"},
                       {"codec", row.codec},
                       {"verb", row.verb},
                       {"dtype", row.dtype},
                       {"elements", row.n},
                       {"ranks", row.ranks},
                       {"aligned", row.aligned},
                       {"time_us", row.microseconds},
                       {"bytes", row.bytes},
                       {"floor", floor},
                       {"share", share}});
    }
  }
  static void head() {
    fmt::print("{:<12} {:<14} {:<5} {:>11} {:>3} {:<9} {:>10} {:>7} {:>6} {:>6}\n", "codec", "verb",
               "dtype", "elements", "N", "source", "us", "B/elem", "copy", "mix");
  }
  const nlohmann::json& rows() const { return rows_; }

 private:
  nlohmann::json rows_ = nlohmann::json::array();
};

Floors measure_floors(const Bench& bench, std::int64_t n) {
  const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
  const Buffer g = bench.buffer(bytes);
  const Buffer e = bench.buffer(bytes);
  check(cudaMemsetAsync(g.data(), 0x11, bytes, bench.stream().handle()));
  check(cudaMemsetAsync(e.data(), 0x12, bytes, bench.stream().handle()));
  // A copy captured in a graph runs on a copy engine, which is slower than the kernel of a plain
  // one.
  const auto enqueue_copy = [&] {
    check(cudaMemcpyAsync(e.data(), g.data(), bytes, cudaMemcpyDeviceToDevice,
                          bench.stream().handle()));
  };
  const double copy = std::min(bench.time(enqueue_copy), bench.time(enqueue_copy, false));
  const double mix = bench.time(
      [&] { bench::enqueue_mix(g.as<float>(), e.as<float>(), n, bench.stream().handle()); });
  const Floors floors{2.0 * static_cast<double>(bytes) / copy,
                      3.0 * static_cast<double>(bytes) / mix};
  fmt::print("floors at {} elements: copy {:.2f} us = {:.3f} TB/s, mix {:.2f} us = {:.3f} TB/s\n",
             n, copy, floors.copy * 1e-6, mix, floors.mix * 1e-6);
  return floors;
}

Plan make_plan(const Options& options, const std::string& codec, DType dtype, std::int64_t n,
               int ranks) {
  Span span;
  span.parameter = "p";
  span.length = n;
  PlanSettings settings;
  settings.dtype = dtype;
  settings.ranks = ranks;
  settings.commit = options.commit == "double" ? Commit::double_buffered : Commit::in_place;
  return Plan{{parse_codec(codec)}, {span}, settings};
}

/// Normal numbers of every magnitude around 1e-3, the same in every run.
Buffer random_gradients(const Bench& bench, DType dtype, std::int64_t n) {
  constexpr std::size_t period = 1 << 20;
  std::vector<std::byte> values(period * size_of(dtype));
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < period; ++i) {
    double sum = 0;
    for (int k = 0; k < 4; ++k) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      sum += static_cast<double>(state >> 40) * 0x1p-24 - 0.5;
    }
    visit_dtype(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T value = from_float<T>(static_cast<float>(sum * 1e-3));
      std::memcpy(values.data() + i * sizeof(T), &value, sizeof(T));
    });
  }
  const std::size_t bytes = static_cast<std::size_t>(n) * size_of(dtype);
  Buffer result = bench.buffer(bytes);
  for (std::size_t at = 0; at < bytes; at += values.size()) {
    check(cudaMemcpyAsync(result.data() + at, values.data(), std::min(values.size(), bytes - at),
                          cudaMemcpyHostToDevice, bench.stream().handle()));
  }
  check(cudaStreamSynchronize(bench.stream().handle()));
  return result;
}

/// Encode and decode as a worker of one rank, the gradient in place or one element off.
void bench_worker(const Bench& bench, const Options& options, const std::string& codec, DType dtype,
                  std::int64_t n, const Floors& floors, Report& report) {
  const Plan plan = make_plan(options, codec, dtype, n, 1);
  CudaStep step{bench.memory(), bench.stream()};
  const ErrorRing ring{bench.memory()};
  CudaState state{plan, 0, bench.memory(), step, bench.stream()};
  CudaCoder coder{plan, bench.memory(), step, ring, bench.stream()};
  const Buffer gradients = random_gradients(bench, dtype, n + 8);
  const Buffer slot = bench.buffer(plan.payload_bytes(Phase::reduce));
  const Buffer reduced = bench.buffer(plan.payload_bytes(Phase::gather));
  const CudaCall call{.stream = bench.stream()};
  const ByteView slots{slot.data(), slot.size(), Device::cuda};
  const ByteView slot_out{reduced.data(), reduced.size(), Device::cuda};
  // topk: what one pass and a histogram over all elements must move (two reads and a write of the
  // residual, one more read), and the entries.
  const bool topk = plan.sections().front().codec == Codec::topk;
  const double payload = topk ? 4.2 * static_cast<double>(n) : static_cast<double>(slot.size());
  const double element = static_cast<double>(size_of(dtype));
  const double residual = plan.residual_elements() > 0 ? 8.0 : 0.0;
  Row row{.codec = codec, .verb = "encode", .dtype = std::string{to_string(dtype)}, .n = n};
  for (const bool aligned : {true, false}) {
    const ConstTensorView view{gradients.data() + (aligned ? 0 : size_of(dtype)), n, dtype,
                               Device::cuda};
    row.aligned = aligned;
    row.bytes = payload + static_cast<double>(n) * (element + residual);
    row.microseconds = bench.time([&] { coder.encode(0, view, state, call, slots); });
    report.add(row, floors);
  }
  coder.encode(0, {gradients.data(), n, dtype, Device::cuda}, state, call, slots);
  coder.reduce_encode(0, slots, state, call, slot_out);
  row.verb = "decode";
  const double received = static_cast<double>(reduced.size());
  for (const bool aligned : {true, false}) {
    const TensorView view{gradients.data() + (aligned ? 0 : size_of(dtype)), n, dtype,
                          Device::cuda};
    row.aligned = aligned;
    row.bytes = received + static_cast<double>(n) * element;
    row.microseconds = bench.time([&] { coder.decode(0, slot_out, call, view); });
    report.add(row, floors);
  }
}

/// The owner's step on N payloads of a shard.
void bench_owner(const Bench& bench, const Options& options, const std::string& codec, int ranks,
                 std::int64_t shard, const Floors& floors, Report& report) {
  const Plan plan = make_plan(options, codec, DType::f32, shard * ranks, ranks);
  CudaStep step{bench.memory(), bench.stream()};
  const ErrorRing ring{bench.memory()};
  CudaState state{plan, 0, bench.memory(), step, bench.stream()};
  CudaCoder coder{plan, bench.memory(), step, ring, bench.stream()};
  const Buffer sent = bench.buffer(plan.payload_bytes(Phase::reduce));
  const Buffer received = bench.buffer(plan.payload_bytes(Phase::reduce));
  const Buffer out = bench.buffer(plan.slot_bytes(0, Phase::gather));
  const CudaCall call{.stream = bench.stream()};
  const std::size_t slot_bytes = plan.slot_bytes(0, Phase::reduce);
  {
    const Buffer gradients = random_gradients(bench, DType::f32, shard * ranks);
    coder.encode(0, {gradients.data(), shard * ranks, DType::f32, Device::cuda}, state, call,
                 {sent.data(), sent.size(), Device::cuda});
    for (int rank = 0; rank < ranks; ++rank) {
      check(cudaMemcpyAsync(received.data() + static_cast<std::size_t>(rank) * slot_bytes,
                            sent.data(), slot_bytes, cudaMemcpyDeviceToDevice,
                            bench.stream().handle()));
    }
  }
  const ConstByteView slots{received.data(), received.size(), Device::cuda};
  Row row{.codec = codec, .verb = "reduce_encode", .dtype = "fp32", .n = shard, .ranks = ranks};
  const double residual = plan.server_elements(0) > 0 ? 8.0 : 0.0;
  row.bytes =
      static_cast<double>(received.size() + out.size()) + residual * static_cast<double>(shard);
  row.microseconds = bench.time([&] {
    coder.reduce_encode(0, slots, state, call, {out.data(), out.size(), Device::cuda});
  });
  report.add(row, floors);
  if (const auto error = const_cast<ErrorRing&>(ring).poll()) throw Error{describe(*error)};
}

void run(const Options& options) {
  THINWIRE_EXPECTS(cuda_device_count() > 0, Error, "this machine has no CUDA GPU");
  const Bench bench{options};
  Report report;
  for (const double size : options.sizes) {
    const auto n = static_cast<std::int64_t>(size);
    const Floors floors = measure_floors(bench, n);
    Report::head();
    for (const CodecSpec& spec : parse_codec_list(options.codecs)) {
      const std::string codec = to_string(spec);
      for (const std::string& dtype : options.dtypes) {
        bench_worker(bench, options, codec, parse_dtype(dtype), n, floors, report);
      }
      for (const int ranks : options.ranks) {
        for (const std::int64_t shard : {n, n / ranks}) {
          bench_owner(bench, options, codec, ranks, shard, floors, report);
        }
      }
    }
  }
  if (!options.json.empty()) std::ofstream{options.json} << report.rows().dump(1) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Time of the codec's verbs on one GPU"};
  app.add_option("-n,--elements", options.sizes, "elements")->delimiter(',');
  app.add_option("--codec", options.codecs, "codecs, comma separated")->capture_default_str();
  app.add_option("--dtype", options.dtypes, "gradient dtypes")->delimiter(',');
  app.add_option("--ranks", options.ranks, "payloads of the owner's step")->delimiter(',');
  app.add_option("--commit", options.commit, "in_place or double")->capture_default_str();
  app.add_option("--repetitions", options.repetitions, "the median counts")->capture_default_str();
  app.add_option("-J,--json", options.json, "file for the rows as JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::cerr << "bench_codec_cuda: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
