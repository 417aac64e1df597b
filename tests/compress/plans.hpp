#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "thinwire/compress/plan.hpp"

/// Plans that many tests use.
namespace thinwire::compress::test {

/// Spans one after the other in the source: "p0", "p1", ..., all in section 0.
inline std::vector<Span> contiguous_spans(const std::vector<std::int64_t>& lengths) {
  std::vector<Span> spans;
  std::int64_t source = 0;
  for (const std::int64_t length : lengths) {
    Span span;
    span.parameter = fmt::format("p{}", spans.size());
    span.source_offset = source;
    span.length = length;
    spans.push_back(span);
    source += length;
  }
  return spans;
}

inline PlanSettings with_ranks(int ranks, int chunks = 1) {
  PlanSettings settings;
  settings.ranks = ranks;
  settings.chunks = chunks;
  return settings;
}

/// One codec, one span of n elements.
inline Plan simple_plan(const std::string& codec, std::int64_t n, int ranks = 1, int chunks = 1) {
  return Plan{{parse_codec(codec)}, contiguous_spans({n}), with_ranks(ranks, chunks)};
}

}  // namespace thinwire::compress::test
