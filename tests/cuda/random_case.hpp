#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "thinwire/compress/coder.hpp"
#include "thinwire/compress/plan.hpp"

/// Random buckets with everything in them that breaks codecs.
namespace thinwire::compress::test {

class RandomCase {
 public:
  RandomCase(std::uint32_t seed, const std::vector<std::string>& codecs) : random_{seed} {
    std::vector<CodecSpec> sections;
    const int section_count = below(4) == 0 ? 1 + below(3) : 1;
    for (int i = 0; i < section_count; ++i) {
      sections.push_back(
          parse_codec(codecs[static_cast<std::size_t>(below(static_cast<int>(codecs.size())))]));
    }
    PlanSettings settings;
    settings.ranks = 1 + below(below(4) == 0 ? 9 : 4);
    settings.dtype = static_cast<DType>(below(3));
    settings.commit = below(2) == 0 ? Commit::in_place : Commit::double_buffered;
    settings.non_finite = below(4) == 0 ? NonFinite::zero : NonFinite::propagate;
    settings.chunks = 1 + (below(2) == 0 ? below(7) : 0);
    plan_.emplace_back(std::move(sections), spans(section_count), std::move(settings));
    misalignment = below(2) == 0 ? 0 : below(8);
    // Loss scales are powers of two in practice, but nothing depends on it.
    inv_scale = below(2) == 0 ? 1.0f : below(2) == 0 ? 0x1p-12f : 0.3f;
    out_scale = below(2) == 0 ? 1.0f : below(2) == 0 ? 4096.0f : 1.7f;
    content_ = below(5);
  }

  const Plan& plan() const { return plan_.front(); }

  /// One rank's gradient tensor; frozen spans are zero in every step.
  std::vector<std::byte> gradients() {
    const DType dtype = plan().settings().dtype;
    std::vector<std::byte> bytes(static_cast<std::size_t>(plan().source_extent()) * size_of(dtype));
    for (std::size_t s = 0; s < plan().spans().size(); ++s) {
      const Span& span = plan().spans()[s];
      if (s % 5 == 3) continue;  // frozen
      const float unit = std::ldexp(1.0f, below(40) - 20);
      for (std::int64_t i = 0; i < span.length; ++i) {
        if (i / 64 % 5 == 2 && content_ != 1) continue;  // groups without a gradient
        const float value = draw(unit);
        visit_dtype(dtype, [&](auto tag) {
          using T = typename decltype(tag)::type;
          const T narrow = from_float<T>(value);
          std::memcpy(bytes.data() + static_cast<std::size_t>(span.source_offset + i) * sizeof(T),
                      &narrow, sizeof(T));
        });
      }
    }
    return bytes;
  }

  int misalignment = 0;
  float inv_scale = 1.0f;
  float out_scale = 1.0f;

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  std::vector<Span> spans(int sections) {
    std::vector<Span> result;
    const int count = below(8) == 0 ? 40 : 1 + below(6);
    std::int64_t source = below(3) == 0 ? below(5) : 0;
    for (int i = 0; i < count; ++i) {
      Span span;
      span.parameter = "p" + std::to_string(i);
      span.source_offset = source;
      switch (below(6)) {
        case 0:
          span.length = below(4);
          break;
        case 1:
          span.length = below(200);
          break;
        case 2:
          span.length = 1024 * below(12);
          break;
        case 3:
          span.length = 64 * below(100);
          break;
        default:
          span.length = below(6000);
      }
      if (below(60) == 0) span.length = 60000 + below(90000);
      span.section = static_cast<std::uint32_t>(below(sections));
      source += span.length + (below(4) == 0 ? below(3) : 0);
      result.push_back(span);
    }
    return result;
  }

  float draw(float unit) {
    const auto bits = random_();
    const float magnitude = unit * static_cast<float>(bits >> 8) * 0x1p-24f;
    const float value = (bits & 1u) != 0 ? -magnitude : magnitude;
    switch (content_) {
      case 0:  // plain
        return value;
      case 1:  // sparse, many ties
        return bits % 50 == 0 ? ((bits & 1u) != 0 ? -unit : unit) : (bits & 2u) != 0 ? 0.0f : -0.0f;
      case 2:  // denormals and outliers
        if (bits % 7 == 0) return value * 0x1p-128f;
        return bits % 301 == 0 ? value * 0x1p60f : value;
      case 3:  // NaN and Inf, seldom
        if (bits % 20011 == 0) return std::numeric_limits<float>::quiet_NaN();
        return bits % 30011 == 1 ? -std::numeric_limits<float>::infinity() : value;
      default:  // near overflow, and zeros
        if (bits % 3 == 0) return 0.0f;
        return bits % 4001 == 1 ? value / unit * std::numeric_limits<float>::max() : value;
    }
  }

  std::mt19937 random_;
  std::vector<Plan> plan_;  // one, made in the constructor's body
  int content_ = 0;
};

}  // namespace thinwire::compress::test
