#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "thinwire/core/error.hpp"

namespace thinwire {

/// Element type of a tensor. The numbers are part of the wire format.
enum class DType : std::uint8_t { f32 = 0, f16 = 1, bf16 = 2 };

/// IEEE binary16 as bits; arithmetic happens in fp32.
struct Half {
  std::uint16_t bits;
};

/// bfloat16 as bits; arithmetic happens in fp32.
struct BFloat16 {
  std::uint16_t bits;
};

constexpr std::uint32_t canonical_nan_f32 = 0x7FC00000u;
constexpr std::uint16_t canonical_nan_f16 = 0x7E00u;
constexpr std::uint16_t canonical_nan_bf16 = 0x7FC0u;

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

/// "fp32", "fp16" or "bf16".
std::string_view to_string(DType dtype);

/// Inverse of to_string; also takes "float", "half", "bfloat16", "fp32", "fp16".
/// Throws InvalidArgument.
DType parse_dtype(std::string_view text);

/// Round to nearest even in integer code, which never flushes denormals. Every NaN becomes the
/// canonical one; values beyond the largest finite bf16 become Inf.
constexpr std::uint16_t bf16_bits(float value) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return canonical_nan_bf16;
  return static_cast<std::uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

constexpr float from_bf16_bits(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Round to nearest even, saturating finite values and Inf at +-65504. Every NaN becomes the
/// canonical one. Integer code: the same on every target.
std::uint16_t fp16_bits(float value);
float from_fp16_bits(std::uint16_t bits);

/// Widening is exact; narrowing rounds once, as above.
constexpr float to_float(float value) { return value; }
inline float to_float(Half value) { return from_fp16_bits(value.bits); }
constexpr float to_float(BFloat16 value) { return from_bf16_bits(value.bits); }

template <typename T>
T from_float(float value);
template <>
inline float from_float<float>(float value) {
  return value == value ? value : std::bit_cast<float>(canonical_nan_f32);
}
template <>
inline Half from_float<Half>(float value) {
  return Half{fp16_bits(value)};
}
template <>
inline BFloat16 from_float<BFloat16>(float value) {
  return BFloat16{bf16_bits(value)};
}

/// The C++ type of a dtype, passed as a value so that a generic lambda can name it:
///   visit_dtype(dtype, [&](auto tag) { using T = typename decltype(tag)::type; ... });
template <typename T>
struct TypeTag {
  using type = T;
};

template <typename Visitor>
decltype(auto) visit_dtype(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::f32:
      return visitor(TypeTag<float>{});
    case DType::f16:
      return visitor(TypeTag<Half>{});
    case DType::bf16:
      return visitor(TypeTag<BFloat16>{});
  }
  throw InvalidArgument{"unknown dtype " + std::to_string(static_cast<int>(dtype))};
}

}  // namespace thinwire
