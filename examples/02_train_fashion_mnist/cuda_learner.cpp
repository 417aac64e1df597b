#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cuda_kernels.hpp"
#include "learner.hpp"
#include "model.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/core/cuda/device.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"
#include "thinwire/core/error.hpp"
#include "trainer.hpp"

namespace fashion {
namespace {

using thinwire::Buffer;

constexpr std::int64_t evaluated_at_once = 250;

void try_cuda(cudaError_t code) {
  if (code != cudaSuccess) throw thinwire::CudaError{cudaGetErrorString(code), code};
}

void try_cublas(cublasStatus_t status) {
  THINWIRE_EXPECTS(status == CUBLAS_STATUS_SUCCESS, thinwire::Error,
                   fmt::format("cuBLAS: {}", cublasGetStatusString(status)));
}

Buffer device_floats(std::int64_t count) {
  return {std::make_shared<thinwire::ExchangeMemory>(),
          static_cast<std::size_t>(count) * sizeof(float), "model"};
}

/// y = x Wᵀ + b, and 0 for what is negative but in the last layer.
struct DenseLayer {
  std::int64_t inputs, outputs;
  bool relu;
  Buffer weight, bias;
  Buffer weight_velocity, bias_velocity;  // empty without momentum
  float* weight_gradient = nullptr;       // in a bucket
  float* bias_gradient = nullptr;
  Buffer output, output_gradient;
};

class CudaLearner final : public Learner {
 public:
  CudaLearner(thinwire::comm::Communicator& communicator, const TrainOptions& options)
      : model_{make_model(options.model, options.seed)},
        engine_{communicator, lay_out(options), {.chunks = options.buckets.chunks}},
        momentum_{options.momentum},
        most_rows_{std::max<std::int64_t>(options.batch, evaluated_at_once)},
        images_{device_floats(most_rows_ * image_pixels)},
        labels_{device_floats(most_rows_)},
        sums_{device_floats(4)} {
    try_cublas(cublasCreate(&cublas_));
    try_cublas(cublasSetStream(cublas_, stream_.view().handle()));
    try_cuda(cudaMemset(sums_.data(), 0, sums_.size()));
    make_layers();
    place_gradients();
  }

  ~CudaLearner() override {
    cudaStreamSynchronize(stream_.view().handle());
    cublasDestroy(cublas_);
  }

  void step(const Batch& batch, float rate) override {
    upload(batch);
    forward(batch.images.rows);
    DenseLayer& last = layers_.back();
    cuda::softmax_cross_entropy(last.output.as<float>(), labels_.as<std::uint8_t>(),
                                last.output_gradient.as<float>(), loss(), batch.images.rows,
                                last.outputs, stream());
    ++steps_;
    backward(batch.images.rows);
    engine_.end_step(stream_);
    missing_ = parameters_in_;
    for (DenseLayer& layer : layers_) {
      update(layer.weight, layer.weight_gradient, layer.weight_velocity, rate);
      update(layer.bias, layer.bias_gradient, layer.bias_velocity, rate);
    }
  }

  double take_loss() override {
    engine_.synchronize();
    double sum = 0;
    download(&sum, loss(), sizeof sum);
    try_cuda(cudaMemsetAsync(loss(), 0, sizeof sum, stream()));
    return sum / static_cast<double>(std::exchange(steps_, 0));
  }

  std::int64_t count_correct(const Batch& batch) override {
    upload(batch);
    forward(batch.images.rows);
    auto* correct = sums_.as<unsigned long long>() + 1;
    try_cuda(cudaMemsetAsync(correct, 0, sizeof *correct, stream()));
    cuda::count_correct(layers_.back().output.as<float>(), labels_.as<std::uint8_t>(), correct,
                        batch.images.rows, classes, stream());
    unsigned long long count = 0;
    download(&count, correct, sizeof count);
    return static_cast<std::int64_t>(count);
  }

  std::span<Parameter* const> parameters() override {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      for (const bool bias : {false, true}) {
        auto& value = model_.parameters()[2 * i + (bias ? 1 : 0)]->value;
        const Buffer& here = bias ? layers_[i].bias : layers_[i].weight;
        download(value.data(), here.data(), here.size());
      }
    }
    return model_.parameters();
  }

  std::size_t buckets() const override { return gradients_.size(); }
  thinwire::comm::CallMetrics metrics() const override { return engine_.metrics(); }
  double compute_seconds() const override { return 0; }
  double codec_ms() const override { return 0; }

 private:
  cudaStream_t stream() const { return stream_.view().handle(); }
  double* loss() const { return sums_.as<double>(); }

  thinwire::comm::BucketLayout lay_out(const TrainOptions& options) {
    THINWIRE_EXPECTS(options.model == "mlp", thinwire::InvalidArgument,
                     fmt::format("model '{}' does not run on a GPU here; use mlp", options.model));
    return bucket_layout(model_.parameters(), options.buckets);
  }

  void make_layers() {
    const auto parameters = model_.parameters();
    for (std::size_t i = 0; i < parameters.size(); i += 2) {
      const auto& shape = parameters[i]->shape;
      DenseLayer layer{.inputs = shape[1],
                       .outputs = shape[0],
                       .relu = i + 2 < parameters.size(),
                       .weight = uploaded(parameters[i]->value),
                       .bias = uploaded(parameters[i + 1]->value),
                       .weight_velocity = {},
                       .bias_velocity = {},
                       .output = device_floats(most_rows_ * shape[0]),
                       .output_gradient = device_floats(most_rows_ * shape[0])};
      if (momentum_ != 0) {
        layer.weight_velocity = zeros_like(layer.weight);
        layer.bias_velocity = zeros_like(layer.bias);
      }
      layers_.push_back(std::move(layer));
    }
  }

  /// As GradientBuckets: last parameter first, and a bucket leaves with its last gradient.
  void place_gradients() {
    const auto& layout = engine_.layout();
    for (const auto& bucket : layout.buckets) gradients_.push_back(device_floats(bucket.elements));
    parameters_in_.resize(gradients_.size());
    const std::size_t count = model_.parameters().size();
    for (std::size_t i = 0; i < count; ++i) {
      const auto& place = layout.placements[count - 1 - i];
      float* gradient = gradients_[place.bucket].as<float>() + place.offset;
      DenseLayer& layer = layers_[i / 2];
      (i % 2 == 0 ? layer.weight_gradient : layer.bias_gradient) = gradient;
      bucket_of_.push_back(place.bucket);
      ++parameters_in_[place.bucket];
    }
    missing_ = parameters_in_;
  }

  void ready(std::size_t parameter) {
    const std::size_t bucket = bucket_of_[parameter];
    if (--missing_[bucket] != 0) return;
    engine_.submit(bucket,
                   {gradients_[bucket].data(), engine_.layout().buckets[bucket].elements,
                    thinwire::DType::f32, thinwire::Device::cuda},
                   stream_);
  }

  Buffer uploaded(const std::vector<float>& values) {
    Buffer buffer = device_floats(static_cast<std::int64_t>(values.size()));
    try_cuda(cudaMemcpy(buffer.data(), values.data(), buffer.size(), cudaMemcpyHostToDevice));
    return buffer;
  }

  Buffer zeros_like(const Buffer& other) {
    Buffer buffer = device_floats(static_cast<std::int64_t>(other.size() / sizeof(float)));
    try_cuda(cudaMemset(buffer.data(), 0, buffer.size()));
    return buffer;
  }

  void upload(const Batch& batch) {
    try_cuda(cudaMemcpyAsync(images_.data(), batch.images.data(),
                             batch.images.values.size() * sizeof(float), cudaMemcpyHostToDevice,
                             stream()));
    try_cuda(cudaMemcpyAsync(labels_.data(), batch.labels.data(), batch.labels.size(),
                             cudaMemcpyHostToDevice, stream()));
  }

  void download(void* to, const void* from, std::size_t bytes) {
    try_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()));
    stream_.synchronize();
  }

  /// c [m x n] = a b, row-major; a is [m x k] and b [k x n] after their transposition.
  void multiply(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
                const float* a, const float* b, float* c) {
    const float one = 1;
    const float zero = 0;
    const auto op = [](bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; };
    // cuBLAS is column-major: it computes the transposed product.
    try_cublas(cublasSgemm(cublas_, op(transpose_b), op(transpose_a), static_cast<int>(n),
                           static_cast<int>(m), static_cast<int>(k), &one, b,
                           static_cast<int>(transpose_b ? k : n), a,
                           static_cast<int>(transpose_a ? m : k), &zero, c, static_cast<int>(n)));
  }

  void forward(std::int64_t rows) {
    const float* input = images_.as<float>();
    for (DenseLayer& layer : layers_) {
      multiply(false, true, rows, layer.outputs, layer.inputs, input, layer.weight.as<float>(),
               layer.output.as<float>());
      cuda::add_bias(layer.output.as<float>(), layer.bias.as<float>(), rows, layer.outputs,
                     layer.relu, stream());
      input = layer.output.as<float>();
    }
  }

  void backward(std::int64_t rows) {
    for (std::size_t i = layers_.size(); i-- > 0;) {
      DenseLayer& layer = layers_[i];
      const float* gradient = layer.output_gradient.as<float>();
      const float* input = i == 0 ? images_.as<float>() : layers_[i - 1].output.as<float>();
      cuda::sum_rows(gradient, layer.bias_gradient, rows, layer.outputs, stream());
      ready(2 * i + 1);
      multiply(true, false, layer.outputs, layer.inputs, rows, gradient, input,
               layer.weight_gradient);
      ready(2 * i);
      if (i == 0) return;
      DenseLayer& before = layers_[i - 1];
      multiply(false, false, rows, layer.inputs, layer.outputs, gradient, layer.weight.as<float>(),
               before.output_gradient.as<float>());
      cuda::mask_by(before.output_gradient.as<float>(), before.output.as<float>(),
                    rows * layer.inputs, stream());
    }
  }

  void update(Buffer& value, const float* gradient, Buffer& velocity, float rate) {
    cuda::sgd(value.as<float>(), gradient, velocity.as<float>(), momentum_, rate,
              static_cast<std::int64_t>(value.size() / sizeof(float)), stream());
  }

  Model model_;  // names, shapes and first values
  thinwire::CudaStream stream_;
  thinwire::comm::CudaEngine engine_;
  cublasHandle_t cublas_ = nullptr;
  float momentum_;
  std::int64_t most_rows_;
  std::vector<DenseLayer> layers_;
  std::vector<Buffer> gradients_;           // by bucket
  std::vector<std::size_t> bucket_of_;      // by parameter
  std::vector<std::size_t> parameters_in_;  // by bucket
  std::vector<std::size_t> missing_;        // by bucket: gradients not there yet in this step
  Buffer images_, labels_;
  Buffer sums_;             // loss as a double, correct images as a u64
  std::int64_t steps_ = 0;  // since the loss was taken
};

}  // namespace

void choose_gpu(int local_rank) {
  int count = 0;
  try_cuda(cudaGetDeviceCount(&count));
  try_cuda(cudaSetDevice(local_rank % count));
}

std::unique_ptr<Learner> make_cuda_learner(thinwire::comm::Communicator& communicator,
                                           const TrainOptions& options) {
  return std::make_unique<CudaLearner>(communicator, options);
}

}  // namespace fashion
