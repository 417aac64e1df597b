#include "reference/block_codec.hpp"
#include "thinwire/core/dtype.hpp"

namespace thinwire::compress::reference {
namespace {

/// fp32 as it is; a block only bounds the spread of a NaN.
class None final : public BlockCodec {
 public:
  LiveGroups live(std::span<const float>) const override { return ~LiveGroups{0}; }

  bool encode(std::span<const float> x, LiveGroups live, std::byte*,
              std::byte* values) const override {
    if (largest_magnitude(x, live) >= overflow_bits(Codec::none)) return false;
    std::memcpy(values, x.data(), x.size_bytes());
    return true;
  }

  void encode_non_finite(std::size_t elements, std::byte*, std::byte* values) const override {
    for (std::size_t i = 0; i < elements; ++i) store(values + 4 * i, canonical_nan_f32);
  }

  void decode(const std::byte*, const std::byte* values, std::span<float> out) const override {
    std::memcpy(out.data(), values, out.size_bytes());
  }
};

}  // namespace

const BlockCodec& none_codec() {
  static const None codec;
  return codec;
}

}  // namespace thinwire::compress::reference
