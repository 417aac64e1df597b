#pragma once

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gpu_ranks.hpp"

/// A bucket of three spans with normal numbers.
namespace thinwire::compress::test {

constexpr std::int64_t bucket = 40000;

inline Plan make_plan(const std::string& codec, Commit commit, int chunks = 1, int ranks = 3) {
  std::vector<Span> spans;
  std::int64_t source = 0;
  for (const std::int64_t length : {std::int64_t{1000}, bucket - 1777, std::int64_t{777}}) {
    Span span;
    span.parameter = "p" + std::to_string(spans.size());
    span.source_offset = source;
    span.length = length;
    spans.push_back(span);
    source += length;
  }
  PlanSettings settings;
  settings.ranks = ranks;
  settings.chunks = chunks;
  settings.commit = commit;
  return Plan{{parse_codec(codec)}, spans, settings};
}

inline std::vector<std::byte> noise(std::int64_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 random{seed};
  std::normal_distribution<float> normal{0.0f, 1e-3f};
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(random) * scale;
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline void set_noise(GpuRanks& ranks, const Plan& plan, unsigned seed, float scale = 1.0f) {
  for (int rank = 0; rank < plan.ranks(); ++rank) {
    ranks.set_gradients(rank, noise(plan.source_extent(), 100 * seed + rank, scale));
  }
}

inline std::vector<float> floats(const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

inline std::vector<float> all_residuals(GpuRanks& ranks, const Plan& plan) {
  std::vector<float> all;
  for (int rank = 0; rank < plan.ranks(); ++rank) {
    for (const auto& residuals : {ranks.state(rank).export_worker(ranks.stream()),
                                  ranks.state(rank).export_server(ranks.stream())}) {
      for (const Residual& residual : residuals) {
        all.insert(all.end(), residual.values.begin(), residual.values.end());
      }
    }
  }
  return all;
}

}  // namespace thinwire::compress::test
