#include "reference/block_codec.hpp"
#include "thinwire/core/dtype.hpp"

namespace thinwire::compress::reference {
namespace {

/// A cast, without a scale.
class Bf16 final : public BlockCodec {
 public:
  bool encode(std::span<const float> x, LiveGroups live, std::byte*,
              std::byte* values) const override {
    if (largest_magnitude(x, live) >= overflow_bits(Codec::bf16)) return false;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (is_live(live, i)) store(values + 2 * i, bf16_bits(x[i]));
    }
    return true;
  }

  void encode_non_finite(std::size_t elements, std::byte*, std::byte* values) const override {
    for (std::size_t i = 0; i < elements; ++i) store(values + 2 * i, canonical_nan_bf16);
  }

  void decode(const std::byte*, const std::byte* values, std::span<float> out) const override {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = from_bf16_bits(load<std::uint16_t>(values + 2 * i));
    }
  }
};

}  // namespace

const BlockCodec& bf16_codec() {
  static const Bf16 codec;
  return codec;
}

}  // namespace thinwire::compress::reference
