#include "optimizer.hpp"

#include <cmath>
#include <numbers>

namespace fashion {

Sgd::Sgd(std::span<Parameter* const> parameters, float momentum)
    : parameters_{parameters}, momentum_{momentum} {
  if (momentum_ == 0.0f) return;
  for (const auto* parameter : parameters_) velocity_.emplace_back(parameter->value.size());
}

void Sgd::step(float rate) {
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    auto& value = parameters_[p]->value;
    std::span<const float> direction = parameters_[p]->gradient;
    if (!velocity_.empty()) {
      auto& velocity = velocity_[p];
      for (std::size_t i = 0; i < velocity.size(); ++i) {
        velocity[i] = momentum_ * velocity[i] + direction[i];
      }
      direction = velocity;
    }
    for (std::size_t i = 0; i < value.size(); ++i) value[i] -= rate * direction[i];
  }
}

float learning_rate(std::int64_t step, std::int64_t warmup, std::int64_t steps, float peak) {
  if (step < warmup) return peak * static_cast<float>(step + 1) / static_cast<float>(warmup);
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
  return static_cast<float>(peak * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace fashion
