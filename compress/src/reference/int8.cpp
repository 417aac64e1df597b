#include "reference/quantise.hpp"

namespace thinwire::compress::reference {
namespace {

/// One signed byte an element, -127 to 127.
class Int8 final : public Quantiser {
 public:
  bool encode(std::span<const float> x, LiveGroups live, std::byte* scale,
              std::byte* values) const override {
    return quantise(x, live, Codec::int8, 127.0f, scale, [&](std::size_t i, int code) {
      store(values + i, static_cast<std::int8_t>(code));
    });
  }

  void decode(const std::byte* scale, const std::byte* values,
              std::span<float> out) const override {
    const float s = load<float>(scale);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<float>(load<std::int8_t>(values + i)) * s;
    }
  }
};

}  // namespace

const BlockCodec& int8_codec() {
  static const Int8 codec;
  return codec;
}

}  // namespace thinwire::compress::reference
