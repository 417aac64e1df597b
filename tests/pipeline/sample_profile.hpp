#pragma once

#include <random>

#include "thinwire/pipeline/profile.hpp"

namespace thinwire::pipeline {

/// A made-up model: an embedding, equal blocks, a heavy head. Round numbers, for tests alone.
inline Profile sample_profile(int blocks) {
  Profile profile;
  profile.model = "sample";
  profile.machine = "none";
  profile.dtype = "f32";
  profile.made_by = "a test";
  profile.sizes = {{"hidden", 64}, {"sequence", 16}};
  const auto layer = [](const char* name, double weight) {
    LayerProfile made;
    made.name = name;
    made.forward = {1e-4 * weight, 1e-3 * weight};
    made.input_gradient = {1e-4 * weight, 1e-3 * weight};
    made.weight_gradient = {1e-4 * weight, 0.8e-3 * weight};
    made.optimizer_seconds = 2e-4 * weight;
    made.activation_bytes = 4e6 * weight;
    made.weight_activation_bytes = 3e6 * weight;
    made.output_bytes = 1e6;
    made.parameter_bytes = 1e7 * weight;
    made.optimizer_bytes = 3e7 * weight;
    return made;
  };
  profile.layers.push_back(layer("embedding", 0.3));
  for (int i = 0; i < blocks; ++i) profile.layers.push_back(layer("block", 1));
  profile.layers.push_back(layer("head", 1.7));
  profile.link = {1e-5, 1e-10};
  return profile;
}

/// Layers, ranks, links and caps of all sorts.
inline Profile random_profile(std::mt19937& random, int layers, int ranks) {
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>{low, high}(random);
  };
  Profile profile = sample_profile(layers - 2);
  const double fixed = uniform(0, 1e-3);
  for (LayerProfile& layer : profile.layers) {
    const double size = uniform(0.5, 1.5);
    layer.forward = {fixed, 1e-3 * size};
    layer.input_gradient = {fixed * uniform(0.5, 1.5), 1e-3 * size * uniform(0.8, 1.3)};
    layer.weight_gradient = {fixed * uniform(0.5, 1.5), 1e-3 * size * uniform(0.5, 1.1)};
    layer.output_bytes = uniform(1e5, 5e6);
  }
  profile.link = {uniform(0, 1e-4), uniform(0, 3e-10)};
  if (random() % 2 == 0) {
    for (int r = 0; r < ranks; ++r) profile.ranks.push_back({uniform(0.7, 1.3), 0});
  }
  if (random() % 2 == 0) {
    double total = 0;
    for (const LayerProfile& l : profile.layers) {
      total += l.parameter_bytes + l.optimizer_bytes + 8 * l.activation_bytes;
    }
    profile.ranks.resize(static_cast<std::size_t>(ranks));
    for (RankProfile& rank : profile.ranks) rank.memory_cap = total / ranks * uniform(1.2, 4);
  }
  return profile;
}

}  // namespace thinwire::pipeline
