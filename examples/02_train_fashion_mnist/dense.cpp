#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "layer.hpp"
#include "random.hpp"

namespace fashion {
namespace {

/// c = a b + beta c, row-major; op is CblasNoTrans or CblasTrans. a is [m x k] and b [k x n] after
/// op.
void gemm(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, std::int64_t m, std::int64_t n,
          std::int64_t k, const float* a, const float* b, float beta, float* c) {
  const auto stride = [](CBLAS_TRANSPOSE op, std::int64_t rows, std::int64_t cols) {
    return static_cast<blasint>(op == CblasNoTrans ? cols : rows);
  };
  cblas_sgemm(CblasRowMajor, op_a, op_b, static_cast<blasint>(m), static_cast<blasint>(n),
              static_cast<blasint>(k), 1.0f, a, stride(op_a, m, k), b, stride(op_b, k, n), beta, c,
              static_cast<blasint>(n));
}

Parameter make_parameter(std::string name, std::vector<std::int64_t> shape) {
  std::int64_t elements = 1;
  for (const auto size : shape) elements *= size;
  return {std::move(name),
          std::move(shape),
          std::vector<float>(static_cast<std::size_t>(elements)),
          {}};
}

}  // namespace

Affine::Affine(const std::string& name, std::int64_t inputs_, std::int64_t outputs_,
               std::mt19937_64& generator)
    : inputs{inputs_},
      outputs{outputs_},
      parameters{make_parameter(name + ".weight", {outputs_, inputs_}),
                 make_parameter(name + ".bias", {outputs_})} {
  const auto bound = std::sqrt(6.0f / static_cast<float>(inputs));
  for (float& w : parameters[0].value) w = uniform(generator, -bound, bound);
}

void Affine::forward(std::int64_t rows, const float* x, float* y) const {
  const auto& bias = parameters[1].value;
  for (std::int64_t r = 0; r < rows; ++r) std::ranges::copy(bias, y + r * outputs);
  gemm(CblasNoTrans, CblasTrans, rows, outputs, inputs, x, parameters[0].value.data(), 1.0f, y);
}

void Affine::backward(std::int64_t rows, const float* x, const float* dy, float* dx) {
  gemm(CblasTrans, CblasNoTrans, outputs, inputs, rows, dy, x, 0.0f, parameters[0].gradient.data());
  const auto bias_gradient = parameters[1].gradient;
  std::ranges::fill(bias_gradient, 0.0f);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      bias_gradient[static_cast<std::size_t>(o)] += dy[r * outputs + o];
    }
  }
  if (dx != nullptr) {
    gemm(CblasNoTrans, CblasNoTrans, rows, inputs, outputs, dy, parameters[0].value.data(), 0.0f,
         dx);
  }
}

Dense::Dense(const std::string& name, std::int64_t inputs, std::int64_t outputs,
             std::mt19937_64& generator)
    : affine_{name, inputs, outputs, generator} {}

const Tensor& Dense::forward(const Tensor& input) {
  input_ = &input;
  output_.resize(input.rows, affine_.outputs);
  affine_.forward(input.rows, input.data(), output_.data());
  return output_;
}

const Tensor& Dense::backward(const Tensor& output_gradient, bool want_input) {
  if (want_input) input_gradient_.resize(input_->rows, affine_.inputs);
  affine_.backward(input_->rows, input_->data(), output_gradient.data(),
                   want_input ? input_gradient_.data() : nullptr);
  return input_gradient_;
}

// Plain loops here: the compiler vectorises them, and does not vectorise std::ranges::transform of
// two inputs, which then waits for a branch on every element.
const Tensor& Relu::forward(const Tensor& input) {
  output_.resize(input.rows, input.cols);
  for (std::size_t i = 0; i < input.values.size(); ++i) {
    output_.values[i] = input.values[i] > 0.0f ? input.values[i] : 0.0f;
  }
  return output_;
}

const Tensor& Relu::backward(const Tensor& output_gradient, bool want_input) {
  if (!want_input) return input_gradient_;
  input_gradient_.resize(output_.rows, output_.cols);
  for (std::size_t i = 0; i < output_.values.size(); ++i) {
    const float gradient = output_gradient.values[i];
    input_gradient_.values[i] = output_.values[i] > 0.0f ? gradient : 0.0f;
  }
  return input_gradient_;
}

}  // namespace fashion
