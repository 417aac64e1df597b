#include "reference/quantise.hpp"

namespace thinwire::compress::reference {
namespace {

/// Two elements a byte, the first in the low nibble, two's complement, -7 to 7.
class Int4 final : public Quantiser {
 public:
  bool encode(std::span<const float> x, LiveGroups live, std::byte* scale,
              std::byte* values) const override {
    return quantise(x, live, Codec::int4, 7.0f, scale, [&](std::size_t i, int code) {
      values[i / 2] |= static_cast<std::byte>((code & 0xF) << (i % 2 * 4));
    });
  }

  void decode(const std::byte* scale, const std::byte* values,
              std::span<float> out) const override {
    const float s = load<float>(scale);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const int nibble = std::to_integer<int>(values[i / 2]) >> (i % 2 * 4) & 0xF;
      const int code = nibble < 8 ? nibble : nibble - 16;
      out[i] = static_cast<float>(code) * s;
    }
  }
};

}  // namespace

const BlockCodec& int4_codec() {
  static const Int4 codec;
  return codec;
}

}  // namespace thinwire::compress::reference
