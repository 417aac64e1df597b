#include "reduce.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace thinwire::comm {
namespace {

// Small enough for the first-level cache, long enough for the loops inside to be vectorised.
constexpr std::int64_t block = 1024;
using Block = std::array<float, block>;

template <typename T>
T narrow(float value) {
  return from_float<T>(value);
}

/// Unlike the codecs' fp16, does not saturate: an overflow has to be seen.
template <>
Half narrow<Half>(float value) {
  if (std::abs(value) >= 65520.0f) {
    return Half{static_cast<std::uint16_t>(std::signbit(value) ? 0xFC00u : 0x7C00u)};
  }
  return from_float<Half>(value);
}

float larger(float a, float b) { return a > b || a != a ? a : b; }

template <typename T>
void reduce_block(ReduceOp op, std::span<const std::byte* const> inputs, std::byte* out,
                  std::int64_t begin, std::int64_t count, Block& sum) {
  for (std::size_t r = 0; r < inputs.size(); ++r) {
    const T* input = reinterpret_cast<const T*>(inputs[r]) + begin;
    if (op == ReduceOp::max) {
      for (std::int64_t i = 0; i < count; ++i) {
        const float value = to_float(input[i]);
        sum[i] = r == 0 ? value : larger(sum[i], value);
      }
    } else {
      for (std::int64_t i = 0; i < count; ++i) {
        sum[i] = (r == 0 ? 0.0f : sum[i]) + to_float(input[i]);
      }
    }
  }
  const float factor = op == ReduceOp::avg ? 1.0f / static_cast<float>(inputs.size()) : 1.0f;
  T* output = reinterpret_cast<T*>(out) + begin;
  for (std::int64_t i = 0; i < count; ++i) output[i] = narrow<T>(sum[i] * factor);
}

}  // namespace

void reduce_in_order(DType dtype, ReduceOp op, std::span<const std::byte* const> inputs,
                     std::byte* out, std::int64_t numel) {
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Block sum;
    for (std::int64_t begin = 0; begin < numel; begin += block) {
      reduce_block<T>(op, inputs, out, begin, std::min(block, numel - begin), sum);
    }
  });
}

void scale(DType dtype, std::byte* data, std::int64_t numel, float factor) {
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* values = reinterpret_cast<T*>(data);
    for (std::int64_t i = 0; i < numel; ++i) values[i] = narrow<T>(to_float(values[i]) * factor);
  });
}

}  // namespace thinwire::comm
