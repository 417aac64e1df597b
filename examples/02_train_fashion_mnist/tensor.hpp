#pragma once

#include <cstdint>
#include <vector>

namespace fashion {

/// Row-major matrix of float: one row a sample. Images are height x width x channels in a row.
struct Tensor {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> values;

  /// Values are unspecified afterwards; the memory is kept for the next batch.
  void resize(std::int64_t rows_, std::int64_t cols_) {
    rows = rows_;
    cols = cols_;
    values.resize(static_cast<std::size_t>(rows * cols));
  }
  float* data() { return values.data(); }
  const float* data() const { return values.data(); }
  float* row(std::int64_t r) { return data() + r * cols; }
  const float* row(std::int64_t r) const { return data() + r * cols; }
};

}  // namespace fashion
