#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "allreduce_case.hpp"
#include "allreduce_values.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/nccl_baseline.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::bench {
namespace {

/// Calls are enqueued one after the other and the last one is waited for: what a training step
/// sees.
constexpr int batches = 5;

void try_cuda(cudaError_t code) {
  THINWIRE_EXPECTS(code == cudaSuccess, TransportError, cudaGetErrorString(code));
}

class GpuCases final : public AllreduceCases {
 public:
  GpuCases(comm::Communicator& communicator, const Settings& settings)
      : communicator_{communicator},
        settings_{settings},
        baseline_{comm::make_nccl_baseline(communicator)} {}

  /// "nccl": ncclAllReduce on a communicator without thinwire, fp32 and bf16; "thinwire": the first
  /// of them through Communicator::allreduce.
  std::vector<Row> peers(std::int64_t elements) override {
    std::vector<Row> rows;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      rows.push_back(plain("nccl", elements, dtype,
                           [&](TensorView data) { baseline_->allreduce(data, stream_); }));
    }
    rows.push_back(plain("thinwire", elements, settings_.dtype, [&](TensorView data) {
      communicator_.allreduce(data, data, comm::ReduceOp::avg, stream_);
    }));
    return rows;
  }

  /// Through CudaEngine, none too.
  Row codec(const compress::CodecSpec& codec, std::int64_t elements) override {
    const DType dtype = settings_.dtype;
    const int chunks = std::max(1, settings_.chunks);
    Row result = row(compress::to_string(codec), elements, dtype);
    comm::BucketLayout layout;
    layout.buckets.push_back({dtype, elements, {codec}, {{.parameter = "g", .length = elements}}});
    comm::CudaEngine engine{
        communicator_, layout, {.chunks = chunks, .algorithm = settings_.algorithm}};
    const compress::Plan plan{{codec},
                              layout.buckets[0].spans,
                              {.ranks = communicator_.size(), .dtype = dtype, .chunks = chunks}};
    const Bytes input = make_input(plan, communicator_.rank(), elements, dtype);
    const Buffer data{memory_, result.bytes, "bench"};
    try_cuda(cudaMemcpy(data.data(), input.data(), input.size(), cudaMemcpyHostToDevice));
    const TensorView view{data.data(), elements, dtype, Device::cuda};
    const auto call = [&] {
      engine.submit(0, view, stream_);
      engine.end_step(stream_);
    };
    call();
    engine.synchronize();
    result.wire_bytes = engine.metrics().wire_bytes;
    if (settings_.checks(plan, result.bytes)) {
      Bytes out(input.size());
      stream_.synchronize();
      try_cuda(cudaMemcpy(out.data(), data.data(), out.size(), cudaMemcpyDeviceToHost));
      const Bytes expected = expected_result(plan, communicator_.size(), elements, dtype);
      result.wrong = sum_over_ranks(communicator_, count_different(out, expected, size_of(dtype)));
    }
    result.time_us = time_calls(call);
    return result;
  }

  std::vector<Row> exchanges(std::size_t bytes) override {
    const auto ranks = static_cast<std::size_t>(communicator_.size());
    const Buffer in{memory_, bytes, "bench"};
    const Buffer out{memory_, bytes, "bench"};
    const ConstByteView all{in.data(), bytes, Device::cuda};
    const ConstByteView part{in.data(), bytes / ranks, Device::cuda};
    const ByteView to{out.data(), bytes, Device::cuda};
    std::vector<Row> rows;
    const auto measured = [&](const char* name, const std::function<void()>& call) {
      const DType dtype = settings_.dtype;
      Row result = row(name, static_cast<std::int64_t>(bytes / size_of(dtype)), dtype);
      result.wire_bytes = bytes / ranks * (ranks - 1);
      result.time_us = time_calls(call);
      rows.push_back(result);
    };
    measured("nccl_all_to_all", [&] { baseline_->all_to_all(all, to, stream_); });
    measured("all_to_all", [&] { communicator_.all_to_all(all, to, stream_); });
    measured("nccl_all_gather", [&] { baseline_->all_gather(part, to, stream_); });
    measured("all_gather", [&] { communicator_.all_gather(part, to, stream_); });
    return rows;
  }

 private:
  Row row(std::string codec, std::int64_t elements, DType dtype) const {
    return {.codec = std::move(codec),
            .transport = std::string{communicator_.transport()},
            .ranks = communicator_.size(),
            .bytes = static_cast<std::size_t>(elements) * size_of(dtype),
            .elements = elements,
            .dtype = dtype};
  }

  Row plain(const char* name, std::int64_t elements, DType dtype,
            const std::function<void(TensorView)>& call) {
    Row result = row(name, elements, dtype);
    const Bytes input = make_tensor(
        elements, dtype, [&](std::int64_t i) { return exact_value(communicator_.rank(), i); });
    const Buffer data{memory_, result.bytes, "bench"};
    try_cuda(cudaMemcpy(data.data(), input.data(), input.size(), cudaMemcpyHostToDevice));
    const TensorView view{data.data(), elements, dtype, Device::cuda};
    result.wire_bytes = ring_bytes(result.bytes, communicator_.size());
    result.time_us = time_calls([&] { call(view); });
    return result;
  }

  /// Microseconds of a call on the slowest rank: the median over batches of their means.
  double time_calls(const std::function<void()>& call) {
    for (int i = 0; i < settings_.warmup; ++i) call();
    std::array<double, batches> means{};
    for (double& mean : means) {
      stream_.synchronize();
      communicator_.control().all_gather("", config().timeout);
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < settings_.iterations; ++i) call();
      stream_.synchronize();
      mean = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
                 .count() /
             settings_.iterations;
    }
    std::nth_element(means.begin(), means.begin() + batches / 2, means.end());
    double slowest = 0;
    for (const auto& text :
         communicator_.control().all_gather(std::to_string(means[batches / 2]), config().timeout)) {
      slowest = std::max(slowest, std::stod(text));
    }
    return slowest;
  }

  comm::Communicator& communicator_;
  const Settings& settings_;
  std::unique_ptr<comm::NcclBaseline> baseline_;
  CudaStream stream_;
  std::shared_ptr<MemoryResource> memory_ = std::make_shared<ExchangeMemory>();
};

}  // namespace

void choose_gpu() {
  int count = 0;
  try_cuda(cudaGetDeviceCount(&count));
  const char* text = std::getenv("LOCAL_RANK");
  if (text == nullptr) text = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  try_cuda(cudaSetDevice(text != nullptr ? std::atoi(text) % count : 0));
}

std::unique_ptr<AllreduceCases> make_gpu_cases(comm::Communicator& communicator,
                                               const Settings& settings) {
  return std::make_unique<GpuCases>(communicator, settings);
}

}  // namespace thinwire::bench
