#pragma once

#include <chrono>
#include <cstddef>
#include <string_view>

namespace thinwire::comm {

/// What became of a bucket, or of one of its chunks, from when to when on this rank.
struct TraceSpan {
  static constexpr int whole = -1;

  std::size_t bucket = 0;
  int chunk = whole;
  /// "bucket" (whole: from submit until its mean is in place), or a stage of a chunk: "encode",
  /// "first exchange" (from its post until its end is seen), "combine", "second exchange",
  /// "decode". Static storage.
  std::string_view name;
  std::chrono::steady_clock::time_point begin{};
  std::chrono::steady_clock::time_point end{};
};

}  // namespace thinwire::comm
