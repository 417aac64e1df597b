#include <array>
#include <cmath>

#include "reference/block_codec.hpp"
#include "thinwire/core/dtype.hpp"

namespace thinwire::compress::reference {
namespace {

/// Sum of a block in the one order that SIMD and GPU codecs share: 128 lanes, lane l adding
/// elements l, 128 + l, 256 + l, ..., then neighbours in a tree.
float sum_in_lanes(std::span<const float> terms) {
  constexpr std::size_t lanes = 128;
  std::array<float, lanes> sums{};
  for (std::size_t i = 0; i < terms.size(); ++i) sums[i % lanes] += terms[i];
  for (std::size_t distance = 1; distance < lanes; distance *= 2) {
    for (std::size_t lane = 0; lane < lanes; lane += 2 * distance) {
      sums[lane] += sums[lane + distance];
    }
  }
  return sums[0];
}

/// One bit an element; the header word holds a bf16 scale above the 16 live bits.
class Sign final : public BlockCodec {
 public:
  explicit Sign(SignScale scale) : scale_{scale} {}

  bool encode(std::span<const float> x, LiveGroups live, std::byte* scale,
              std::byte* values) const override {
    const std::uint16_t level = scale_bits(x, live);
    if (!std::isfinite(from_bf16_bits(level))) return false;
    store(scale, std::uint32_t{level} << 16 | live);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::signbit(x[i])) values[i / 8] |= std::byte{1} << (i % 8);
    }
    return true;
  }

  void encode_non_finite(std::size_t, std::byte* scale, std::byte*) const override {
    store(scale, sign_non_finite_word);
  }

  void decode(const std::byte* scale, const std::byte* values,
              std::span<float> out) const override {
    const auto word = load<std::uint32_t>(scale);
    const float level = from_bf16_bits(static_cast<std::uint16_t>(word >> 16));
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool negative = (std::to_integer<int>(values[i / 8]) >> (i % 8) & 1) != 0;
      out[i] = !is_live(word & 0xFFFFu, i) ? 0.0f : negative ? -level : level;
    }
  }

 private:
  std::uint16_t scale_bits(std::span<const float> x, LiveGroups live) const {
    std::array<float, static_cast<std::size_t>(block_elements(Codec::sign))> terms{};
    std::size_t count = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (!is_live(live, i)) continue;
      terms[i] = scale_ == SignScale::mean ? std::fabs(x[i]) : x[i] * x[i];
      ++count;
    }
    if (count == 0) return 0;
    const float mean = sum_in_lanes(terms) / static_cast<float>(count);
    return bf16_bits(scale_ == SignScale::mean ? mean : std::sqrt(mean));
  }

  SignScale scale_;
};

}  // namespace

const BlockCodec& sign_codec(SignScale scale) {
  static const Sign mean{SignScale::mean};
  static const Sign rms{SignScale::rms};
  return scale == SignScale::mean ? mean : rms;
}

}  // namespace thinwire::compress::reference
