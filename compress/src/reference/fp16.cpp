#include "reference/block_codec.hpp"
#include "thinwire/core/dtype.hpp"

namespace thinwire::compress::reference {
namespace {

/// binary16 in units of a power of two that puts the largest magnitude into [2^14, 2^15).
class Fp16 final : public BlockCodec {
 public:
  bool encode(std::span<const float> x, LiveGroups live, std::byte* scale,
              std::byte* values) const override {
    const std::uint32_t largest = largest_magnitude(x, live);
    if (largest >= overflow_bits(Codec::fp16)) return false;
    if (largest < smallest_scaled_bits) return true;
    // 2^(floor(log2 M) - 14); M >= 2^-100 keeps the exponent above -126.
    const float s = std::bit_cast<float>(((largest >> 23) - 14u) << 23);
    store(scale, s);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (is_live(live, i)) store(values + 2 * i, fp16_bits(x[i] / s));
    }
    return true;
  }

  void encode_non_finite(std::size_t, std::byte* scale, std::byte*) const override {
    store(scale, canonical_nan_f32);
  }

  void decode(const std::byte* scale, const std::byte* values,
              std::span<float> out) const override {
    const float s = load<float>(scale);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = s * from_fp16_bits(load<std::uint16_t>(values + 2 * i));
    }
  }
};

}  // namespace

const BlockCodec& fp16_codec() {
  static const Fp16 codec;
  return codec;
}

}  // namespace thinwire::compress::reference
