#include "cuda_kernels.hpp"

namespace fashion::cuda {
namespace {

constexpr int threads = 256;

__device__ std::int64_t my_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

unsigned blocks_for(std::int64_t count) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}

__global__ void add_bias_kernel(float* y, const float* bias, std::int64_t count, std::int64_t cols,
                                bool relu) {
  const std::int64_t i = my_index();
  if (i >= count) return;
  const float value = y[i] + bias[i % cols];
  y[i] = relu && !(value > 0.0f) ? 0.0f : value;
}

__global__ void sum_rows_kernel(const float* x, float* sums, std::int64_t rows, std::int64_t cols) {
  const std::int64_t c = my_index();
  if (c >= cols) return;
  float sum = 0;
  for (std::int64_t r = 0; r < rows; ++r) sum += x[r * cols + c];
  sums[c] = sum;
}

__global__ void mask_by_kernel(float* gradient, const float* activation, std::int64_t count) {
  const std::int64_t i = my_index();
  if (i < count && !(activation[i] > 0.0f)) gradient[i] = 0;
}

__global__ void softmax_cross_entropy_kernel(const float* logits, const std::uint8_t* labels,
                                             float* gradient, double* loss, std::int64_t rows,
                                             std::int64_t classes) {
  const std::int64_t r = my_index();
  if (r >= rows) return;
  const float* in = logits + r * classes;
  float* out = gradient + r * classes;
  float largest = in[0];
  for (std::int64_t c = 1; c < classes; ++c) largest = fmaxf(largest, in[c]);
  float sum = 0;
  for (std::int64_t c = 0; c < classes; ++c) sum += out[c] = expf(in[c] - largest);
  const float share = 1.0f / static_cast<float>(rows);
  atomicAdd(loss, static_cast<double>((logf(sum) - (in[labels[r]] - largest)) * share));
  for (std::int64_t c = 0; c < classes; ++c) out[c] *= share / sum;
  out[labels[r]] -= share;
}

__global__ void count_correct_kernel(const float* logits, const std::uint8_t* labels,
                                     unsigned long long* correct, std::int64_t rows,
                                     std::int64_t classes) {
  const std::int64_t r = my_index();
  if (r >= rows) return;
  std::int64_t best = 0;
  for (std::int64_t c = 1; c < classes; ++c) {
    if (logits[r * classes + c] > logits[r * classes + best]) best = c;
  }
  if (best == labels[r]) atomicAdd(correct, 1ull);
}

__global__ void sgd_kernel(float* value, const float* gradient, float* velocity, float momentum,
                           float rate, std::int64_t count) {
  const std::int64_t i = my_index();
  if (i >= count) return;
  float direction = gradient[i];
  if (velocity != nullptr) velocity[i] = direction = momentum * velocity[i] + direction;
  value[i] -= rate * direction;
}

}  // namespace

void add_bias(float* y, const float* bias, std::int64_t rows, std::int64_t cols, bool relu,
              cudaStream_t stream) {
  add_bias_kernel<<<blocks_for(rows * cols), threads, 0, stream>>>(y, bias, rows * cols, cols,
                                                                   relu);
}

void sum_rows(const float* x, float* sums, std::int64_t rows, std::int64_t cols,
              cudaStream_t stream) {
  sum_rows_kernel<<<blocks_for(cols), threads, 0, stream>>>(x, sums, rows, cols);
}

void mask_by(float* gradient, const float* activation, std::int64_t count, cudaStream_t stream) {
  mask_by_kernel<<<blocks_for(count), threads, 0, stream>>>(gradient, activation, count);
}

void softmax_cross_entropy(const float* logits, const std::uint8_t* labels, float* gradient,
                           double* loss, std::int64_t rows, std::int64_t classes,
                           cudaStream_t stream) {
  softmax_cross_entropy_kernel<<<blocks_for(rows), threads, 0, stream>>>(logits, labels, gradient,
                                                                         loss, rows, classes);
}

void count_correct(const float* logits, const std::uint8_t* labels, unsigned long long* correct,
                   std::int64_t rows, std::int64_t classes, cudaStream_t stream) {
  count_correct_kernel<<<blocks_for(rows), threads, 0, stream>>>(logits, labels, correct, rows,
                                                                 classes);
}

void sgd(float* value, const float* gradient, float* velocity, float momentum, float rate,
         std::int64_t count, cudaStream_t stream) {
  sgd_kernel<<<blocks_for(count), threads, 0, stream>>>(value, gradient, velocity, momentum, rate,
                                                        count);
}

}  // namespace fashion::cuda
