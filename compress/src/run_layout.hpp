#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "thinwire/compress/codec_spec.hpp"

/// Sizes of the parts of a run. docs/wire-format.md draws them.
namespace thinwire::compress {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Every part of a slot starts at a multiple of 16 bytes.
constexpr std::size_t pad16(std::size_t bytes) { return (bytes + 15) / 16 * 16; }

/// Scales or header words of `blocks` blocks. For topk see TopkParts.
constexpr std::size_t scale_bytes(Codec codec, std::int64_t blocks) {
  const bool scaled =
      codec == Codec::fp16 || codec == Codec::int8 || codec == Codec::int4 || codec == Codec::sign;
  return scaled ? 4 * static_cast<std::size_t>(blocks) : 0;
}

/// Values of consecutive blocks with `elements` elements, of which only the last may be short. For
/// topk see TopkParts.
constexpr std::size_t value_bytes(Codec codec, std::int64_t elements) {
  const auto m = static_cast<std::size_t>(elements);
  switch (codec) {
    case Codec::none:
      return 4 * m;
    case Codec::bf16:
    case Codec::fp16:
      return 2 * m;
    case Codec::int8:
      return m;
    case Codec::int4:
      return (m + 1) / 2;
    case Codec::sign:
      return (m + 63) / 64 * 8;
    case Codec::topk:
    case Codec::mixed:
      break;
  }
  return 0;
}

/// Positions of a topk run that share one entry of first[]: a local index has 16 bits.
constexpr std::int64_t topk_block = 65536;

/// Bit of first[b]: the block holds NaN or Inf, nothing was selected in it.
constexpr std::uint32_t topk_non_finite = 0x80000000u;

/// Capacity in entries of a topk run of `elements` elements.
inline std::int64_t topk_entries(double density, std::int64_t elements) {
  if (elements == 0) return 0;
  const double wanted = std::floor(density * static_cast<double>(elements) + 0.5);
  const auto entries = wanted < 1.0 ? std::int64_t{1} : static_cast<std::int64_t>(wanted);
  return entries < elements ? entries : elements;
}

/// Byte offsets inside a topk run: u32 first[blocks + 1] | u16 local[entries] |
/// bf16 value[entries], each padded to 16.
struct TopkParts {
  std::int64_t blocks;
  std::size_t local;
  std::size_t value;
  std::size_t bytes;

  constexpr TopkParts(std::int64_t elements, std::int64_t entries)
      : blocks{ceil_div(elements, topk_block)},
        local{pad16(4 * static_cast<std::size_t>(blocks + 1))},
        value{local + pad16(2 * static_cast<std::size_t>(entries))},
        bytes{value + pad16(2 * static_cast<std::size_t>(entries))} {}
};

}  // namespace thinwire::compress
