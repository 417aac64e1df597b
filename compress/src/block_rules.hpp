#pragma once

#include <bit>
#include <cstdint>

#include "thinwire/compress/codec_spec.hpp"

/// Numbers of docs/wire-format.md that every coder needs.
namespace thinwire::compress {

/// Magnitudes are compared as bits without the sign: exact in any order, NaN > Inf > finite.
constexpr std::uint32_t magnitude_bits(float value) {
  return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
}

/// A block whose largest magnitude has at least these bits is non-finite: a value of it, or what a
/// decoder would make of it, is NaN or Inf. For sign its scale decides instead.
constexpr std::uint32_t overflow_bits(Codec codec) {
  switch (codec) {
    case Codec::bf16:
    case Codec::topk:
      return 0x7F7F8000u;  // rounds to a bf16 Inf
    case Codec::fp16:
      return 0x7F7FF000u;  // rounds to 2^15 in units of 2^113
    case Codec::int8:
      return 0x7F7FFFFFu;  // 127 * fl(M / 127) overflows
    default:
      return 0x7F800000u;
  }
}

/// Scaled blocks (fp16, int8, int4) whose largest magnitude is below 2^-100 send zeros: 1 / scale
/// would overflow.
constexpr std::uint32_t smallest_scaled_bits = std::bit_cast<std::uint32_t>(0x1p-100f);

/// Header word of a non-finite sign block.
constexpr std::uint32_t sign_non_finite_word = 0x7FC0FFFFu;

}  // namespace thinwire::compress
