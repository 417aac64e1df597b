#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "block_rules.hpp"
#include "thinwire/compress/codec_spec.hpp"

/// The block codecs of docs/wire-format.md, one element at a time.
namespace thinwire::compress::reference {

/// Bit j: group j (64 elements) of a block takes part. The others send nothing and keep their
/// residual.
using LiveGroups = std::uint32_t;

constexpr bool is_live(LiveGroups live, std::size_t element) {
  return (live >> (element / static_cast<std::size_t>(group_elements)) & 1u) != 0;
}

/// Groups that hold an input which is not zero (a NaN is not).
inline LiveGroups live_groups(std::span<const float> input) {
  LiveGroups live = 0;
  for (std::size_t i = 0; i < input.size(); ++i) {
    if (input[i] != 0.0f) live |= 1u << (i / static_cast<std::size_t>(group_elements));
  }
  return live;
}

/// A codec whose blocks are coded by themselves. A block has 1 to block_elements(codec) elements, a
/// scale (or header word, or nothing) and its values.
class BlockCodec {
 public:
  virtual ~BlockCodec() = default;

  /// Which groups of a block with this input take part.
  virtual LiveGroups live(std::span<const float> input) const { return live_groups(input); }

  /// Codes x into `scale` and `values`, both zero before. Returns false, with nothing written, if
  /// the block is non-finite.
  virtual bool encode(std::span<const float> x, LiveGroups live, std::byte* scale,
                      std::byte* values) const = 0;

  /// Writes a block of `elements` that every decoder reads as NaN; both are zero before.
  virtual void encode_non_finite(std::size_t elements, std::byte* scale,
                                 std::byte* values) const = 0;

  /// Writes what the block says; any bytes are valid.
  virtual void decode(const std::byte* scale, const std::byte* values,
                      std::span<float> out) const = 0;
};

const BlockCodec& none_codec();
const BlockCodec& bf16_codec();
const BlockCodec& fp16_codec();
const BlockCodec& int8_codec();
const BlockCodec& int4_codec();
const BlockCodec& sign_codec(SignScale scale);

/// Of any codec but topk and mixed.
const BlockCodec& block_codec(const CodecSpec& spec);

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

/// M of docs/wire-format.md: the largest magnitude in live groups, as bits.
inline std::uint32_t largest_magnitude(std::span<const float> x, LiveGroups live) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (is_live(live, i)) largest = std::max(largest, magnitude_bits(x[i]));
  }
  return largest;
}

}  // namespace thinwire::compress::reference
