#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layer.hpp"

namespace fashion {

/// Stochastic gradient descent: v = momentum v + g, p = p - rate v. Without momentum v is g and
/// takes no memory.
class Sgd {
 public:
  /// The parameters must outlive the optimizer.
  Sgd(std::span<Parameter* const> parameters, float momentum);
  void step(float rate);

 private:
  std::span<Parameter* const> parameters_;
  float momentum_;
  std::vector<std::vector<float>> velocity_;  // by parameter; empty without momentum
};

/// The learning rate of a step counted from 0: rises in a line to `peak` over `warmup` steps, then
/// falls as a cosine to 0 at `steps`.
float learning_rate(std::int64_t step, std::int64_t warmup, std::int64_t steps, float peak);

}  // namespace fashion
