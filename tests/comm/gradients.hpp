#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "thinwire/comm/buckets.hpp"

/// Inputs of the tests that reduce gradients.
namespace thinwire::comm::testing {

/// A small model with a weight of several blocks, short parameters and an empty one.
inline const std::vector<Parameter> small_model{
    {"fc1.weight", {70, 100}}, {"fc1.bias", {70}}, {"empty", {0}}, {"fc2.weight", {10, 7}}};

/// Normally distributed values, the same for the same seed.
inline std::vector<float> random_values(std::int64_t elements, int seed) {
  std::mt19937 random{static_cast<std::uint32_t>(seed)};
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(elements));
  for (float& value : values) value = normal(random);
  return values;
}

/// What a rank gives in a step.
inline std::vector<float> random_gradients(std::int64_t elements, int rank, int step) {
  return random_values(elements, 1000 * rank + step);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::ranges::equal(std::as_bytes(std::span{a}), std::as_bytes(std::span{b}));
}

}  // namespace thinwire::comm::testing
