#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "thinwire/core/tensor_view.hpp"

/// Tensors of small integers: every sum over ranks is exact in any order and in any dtype.
namespace thinwire::comm::testing {

inline float value_of(int rank, std::int64_t i) {
  return static_cast<float>((i * 7 + rank * 3) % 13 - 6);
}

/// A tensor of any dtype that owns its bytes.
class Values {
 public:
  Values(DType dtype, std::int64_t numel)
      : dtype_{dtype}, bytes_(static_cast<std::size_t>(numel) * size_of(dtype)), numel_{numel} {}

  /// The input of `rank`: element i is value_of(rank, first + i).
  static Values of_rank(int rank, DType dtype, std::int64_t numel, std::int64_t first = 0) {
    Values values{dtype, numel};
    for (std::int64_t i = 0; i < numel; ++i) values.set(i, value_of(rank, first + i));
    return values;
  }

  TensorView view() { return {bytes_.data(), numel_, dtype_, Device::host}; }
  std::int64_t numel() const { return numel_; }

  void set(std::int64_t i, float value) {
    visit_dtype(dtype_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      reinterpret_cast<T*>(bytes_.data())[i] = from_float<T>(value);
    });
  }

  float get(std::int64_t i) const {
    return visit_dtype(dtype_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      return to_float(reinterpret_cast<const T*>(bytes_.data())[i]);
    });
  }

  bool operator==(const Values&) const = default;

 private:
  DType dtype_;
  std::vector<std::byte> bytes_;
  std::int64_t numel_;
};

/// Bytes that tell their sender, their receiver and their place.
inline std::byte byte_of(int from, int to, std::size_t i) {
  return static_cast<std::byte>(from * 41 + to * 17 + static_cast<int>(i % 251));
}

inline std::vector<std::byte> message(int from, int to, std::size_t bytes) {
  constexpr std::size_t period = 251;
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < std::min(bytes, period); ++i) data[i] = byte_of(from, to, i);
  for (std::size_t done = period; done < bytes; done += period) {  // fast under sanitizers too
    std::memcpy(data.data() + done, data.data(), std::min(period, bytes - done));
  }
  return data;
}

inline ByteView bytes_of(std::vector<std::byte>& data) { return {data.data(), data.size()}; }

}  // namespace thinwire::comm::testing
