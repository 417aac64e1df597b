#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "layer.hpp"

namespace fashion {

/// Layers one after the other, images in, ten logits out.
class Model {
 public:
  explicit Model(std::vector<std::unique_ptr<Layer>> layers);

  /// All parameters, first layer first. The trainer sets where their gradients stand.
  std::span<Parameter* const> parameters() const { return parameters_; }

  const Tensor& forward(const Tensor& images);

  /// Computes all gradients, last layer first, and calls ready(i) as soon as that of
  /// parameters()[i] is complete: from the last index to the first.
  void backward(const Tensor& logits_gradient, const std::function<void(std::size_t)>& ready);

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<Parameter*> parameters_;
};

/// "mlp": 784-256-128-10, 235,146 parameters; "cnn": two 3 x 3 convolutions with pooling and two
/// dense layers, 80,602 parameters. The same values for the same seed on every rank.
/// Throws thinwire::InvalidArgument for another name.
Model make_model(std::string_view name, std::uint64_t seed);

/// Mean softmax cross-entropy of the rows; writes its gradient with respect to the logits.
double softmax_cross_entropy(const Tensor& logits, std::span<const std::uint8_t> labels,
                             Tensor& gradient);

/// Rows whose largest logit is that of their label.
std::int64_t count_correct(const Tensor& logits, std::span<const std::uint8_t> labels);

/// Every matrix product of this process on the thread that asks for it: ranks share the cores.
void use_one_blas_thread();

}  // namespace fashion
