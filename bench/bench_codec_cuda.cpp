#include "bench_codec_cuda.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "cuda_floors.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/core/cuda/device.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::bench {
namespace {

using namespace compress;  // NOLINT: a program about this namespace

void check(cudaError_t code) {
  if (code != cudaSuccess) throw Error{cudaGetErrorString(code)};
}

}  // namespace

/// Everything on one stream.
class CudaCodecBench::Device {
 public:
  explicit Device(int repetitions) : repetitions_{repetitions} {
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  ~Device() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  StreamView stream() const { return stream_.view(); }
  const std::shared_ptr<MemoryResource>& memory() const { return memory_; }
  Buffer buffer(std::size_t bytes) const { return Buffer{memory_, bytes, "bench"}; }

  void copy(void* to, const void* from, std::size_t bytes) const {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream().handle()));
  }

  double replayed_ms(const std::function<void()>& enqueue) const {
    constexpr int calls = 8;
    check(cudaStreamBeginCapture(stream().handle(), cudaStreamCaptureModeGlobal));
    for (int i = 0; i < calls; ++i) enqueue();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream().handle(), &graph));
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, graph, 0));
    const double time =
        enqueued_ms([&] { check(cudaGraphLaunch(executable, stream().handle())); }) / calls;
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    return time;
  }

  double enqueued_ms(const std::function<void()>& enqueue) const {
    std::vector<float> times;
    for (int i = 0; i < repetitions_ + 1; ++i) {
      check(cudaEventRecord(start_, stream().handle()));
      enqueue();
      check(cudaEventRecord(stop_, stream().handle()));
      check(cudaEventSynchronize(stop_));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, start_, stop_));
      if (i > 0) times.push_back(milliseconds);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  int repetitions_;
  CudaStream stream_;
  std::shared_ptr<MemoryResource> memory_ = std::make_shared<DeviceMemory>(stream_.view());
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

namespace {

/// What a verb needs, on the GPU.
class CudaCase {
 public:
  template <typename Device>
  CudaCase(const CodecCase& wanted, const Device& device)
      : case_{wanted},
        stream_{device.stream()},
        memory_{device.memory()},
        plan_{plan_of(wanted)},
        step_{device.memory(), stream_},
        ring_{device.memory()},
        state_{plan_, 0, device.memory(), step_, stream_},
        coder_{plan_, device.memory(), step_, ring_, stream_},
        numbers_{device.buffer((static_cast<std::size_t>(wanted.elements) + 16) *
                               size_of(wanted.dtype))},
        sent_{device.buffer(plan_.payload_bytes(Phase::reduce))},
        received_{device.buffer(plan_.payload_bytes(Phase::reduce))},
        reduced_{device.buffer(plan_.payload_bytes(Phase::gather))} {
    const std::size_t skipped = wanted.aligned ? 0 : size_of(wanted.dtype);
    gradients_ = {numbers_.data() + skipped, wanted.elements, wanted.dtype, gpu};
    fill(0);
    if (wanted.op == "reduce_encode") prepare_reduce();
    if (wanted.op == "decode") prepare_decode();
    check(cudaStreamSynchronize(stream_.handle()));
  }

  void enqueue() {
    if (case_.op == "encode") {
      encode();
    } else if (case_.op == "reduce_encode") {
      reduce_encode(state_, 0);
    } else {
      coder_.decode(0, view(reduced_), call(), gradients_);
    }
  }

  /// Throws Error if a slot was refused.
  void check_slots() {
    if (const auto error = ring_.poll()) throw Error{describe(*error)};
  }

 private:
  static constexpr auto gpu = thinwire::Device::cuda;

  CudaCall call() const { return {.stream = stream_}; }
  static ByteView view(const Buffer& buffer) { return {buffer.data(), buffer.size(), gpu}; }

  void encode() { coder_.encode(0, gradients_, state_, call(), view(sent_)); }

  void reduce_encode(CudaState& owner, int shard) {
    const std::size_t bytes = plan_.slot_bytes(0, Phase::gather);
    coder_.reduce_encode(0, view(received_), owner, call(),
                         {reduced_.data() + static_cast<std::size_t>(shard) * bytes, bytes, gpu});
  }

  /// The first numbers of the data, again and again.
  void fill(std::uint64_t seed) {
    constexpr std::int64_t period = 1 << 20;
    const std::size_t element = size_of(case_.dtype);
    std::vector<std::byte> values(static_cast<std::size_t>(period) * element);
    visit_dtype(case_.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::int64_t i = 0; i < period; ++i) {
        const T value = from_float<T>(value_of(case_.data, i, seed));
        std::memcpy(values.data() + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
      }
    });
    const std::size_t bytes = static_cast<std::size_t>(case_.elements) * element;
    for (std::size_t at = 0; at < bytes; at += values.size()) {
      copy(static_cast<std::byte*>(gradients_.data) + at, values.data(),
           std::min(values.size(), bytes - at));
    }
  }

  void copy(void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.handle()));
  }

  /// Gives an owner the slot of `shard` as that of `rank`.
  void receive(int rank, int shard) {
    const std::size_t bytes = plan_.slot_bytes(0, Phase::reduce);
    copy(received_.data() + static_cast<std::size_t>(rank) * bytes,
         sent_.data() + static_cast<std::size_t>(shard) * bytes, bytes);
  }

  void prepare_reduce() {
    for (int rank = 0; rank < case_.ranks; ++rank) {
      fill(static_cast<std::uint64_t>(rank));
      encode();
      receive(rank, 0);
    }
  }

  void prepare_decode() {
    encode();
    for (int shard = 0; shard < case_.ranks; ++shard) {
      for (int rank = 0; rank < case_.ranks; ++rank) receive(rank, shard);
      CudaState owner{plan_, shard, memory_, step_, stream_};
      reduce_encode(owner, shard);
      check(cudaStreamSynchronize(stream_.handle()));
    }
  }

  CodecCase case_;
  StreamView stream_;
  std::shared_ptr<MemoryResource> memory_;
  Plan plan_;
  CudaStep step_;
  ErrorRing ring_;
  CudaState state_;
  CudaCoder coder_;
  Buffer numbers_;
  Buffer sent_;
  Buffer received_;
  Buffer reduced_;
  TensorView gradients_;
};

}  // namespace

CudaCodecBench::CudaCodecBench(int repetitions) {
  THINWIRE_EXPECTS(cuda_device_count() > 0, Error, "this machine has no CUDA GPU");
  device_ = std::make_unique<Device>(repetitions);
}

CudaCodecBench::~CudaCodecBench() = default;

double CudaCodecBench::time_ms(const CodecCase& wanted) {
  CudaCase run{wanted, *device_};
  const double time = device_->replayed_ms([&] { run.enqueue(); });
  run.check_slots();
  return time;
}

CudaFloors CudaCodecBench::floors(std::int64_t elements) {
  if (const auto found = floors_.find(elements); found != floors_.end()) return found->second;
  const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(float);
  const Buffer g = device_->buffer(bytes);
  const Buffer e = device_->buffer(bytes);
  check(cudaMemsetAsync(g.data(), 0x11, bytes, device_->stream().handle()));
  check(cudaMemsetAsync(e.data(), 0x12, bytes, device_->stream().handle()));
  // A copy captured in a graph runs on a copy engine, which is slower than the kernel of a plain
  // one.
  const auto copy = [&] { device_->copy(e.data(), g.data(), bytes); };
  const double copy_ms = std::min(device_->replayed_ms(copy), device_->enqueued_ms(copy));
  const double mix_ms = device_->replayed_ms(
      [&] { enqueue_mix(g.as<float>(), e.as<float>(), elements, device_->stream().handle()); });
  const auto moved = static_cast<double>(bytes);
  return floors_[elements] = {2.0 * moved / copy_ms, 3.0 * moved / mix_ms};
}

}  // namespace thinwire::bench
