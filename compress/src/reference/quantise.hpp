#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "reference/block_codec.hpp"

namespace thinwire::compress::reference {

/// What int8 and int4 share: M / L is one unit, zero is kept for the whole block.
class Quantiser : public BlockCodec {
 public:
  LiveGroups live(std::span<const float> input) const override {
    return live_groups(input) != 0 ? ~LiveGroups{0} : 0;
  }

  void encode_non_finite(std::size_t, std::byte* scale, std::byte*) const override {
    store(scale, 0x7FC00000u);
  }

 protected:
  /// Calls put(i, q) for each element with q in [-largest_code, largest_code], unless all are 0.
  template <typename Put>
  static bool quantise(std::span<const float> x, LiveGroups live, Codec codec, float largest_code,
                       std::byte* scale, Put put) {
    const std::uint32_t bits = largest_magnitude(x, live);
    if (bits >= overflow_bits(codec)) return false;
    if (bits < smallest_scaled_bits) return true;
    const float largest = std::bit_cast<float>(bits);
    store(scale, largest / largest_code);
    const float codes_per_unit = largest_code / largest;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float code = std::nearbyint(x[i] * codes_per_unit);
      put(i, static_cast<int>(std::clamp(code, -largest_code, largest_code)));
    }
    return true;
  }
};

}  // namespace thinwire::compress::reference
