#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire::compress {

/// How gradients travel. The numbers are part of the wire format.
enum class Codec : std::uint8_t {
  none = 0,    ///< fp32 as it is
  bf16 = 1,    ///< bfloat16 cast
  fp16 = 2,    ///< blocks of 1024, fp32 power-of-two scale, binary16 values
  int8 = 3,    ///< blocks of 256, fp32 scale, 8-bit values
  int4 = 4,    ///< blocks of 128, fp32 scale, 4-bit values
  sign = 5,    ///< blocks of 1024, bf16 scale and group mask, 1-bit values
  topk = 6,    ///< the largest by magnitude of each shard: 16-bit index, bf16 value
  mixed = 255  ///< header only: the sections of the bucket differ
};

/// Scale of a sign block: mean or root mean square of |x| over its live elements.
enum class SignScale : std::uint8_t { mean = 0, rms = 1 };

/// What a rank remembers of what it did not send.
enum class Feedback : std::uint8_t { none = 0, ef = 1 };

/// One codec with its settings.
struct CodecSpec {
  Codec codec = Codec::none;
  Feedback feedback = Feedback::none;
  SignScale sign_scale = SignScale::mean;  ///< sign only
  double density = 1.0;                    ///< topk only: entries a worker sends, in (0, 1]
  double density_out = 1.0;                ///< topk only: entries an owner sends back, in (0, 1]

  bool operator==(const CodecSpec&) const = default;
};

/// Elements of a full block. For none, bf16 and topk a block only fixes owners, boundaries of
/// non-finite spread and residuals.
constexpr std::int64_t block_elements(Codec codec) {
  switch (codec) {
    case Codec::int8:
      return 256;
    case Codec::int4:
      return 128;
    default:
      return 1024;
  }
}

/// Inputs of a group are zero together or live together.
constexpr std::int64_t group_elements = 64;

/// Grammar: NAME[:OPTION][+ef|+noef] with NAME none, bf16, fp16, int8, int4, sign or topk; OPTION a
/// density for topk ("topk:0.01", "topk:0.01/0.02" with another density on the way back) or "rms"
/// for sign. Feedback defaults to ef, but to none for none and bf16.
/// Throws InvalidArgument naming the part that is wrong.
CodecSpec parse_codec(std::string_view text);

/// The inverse of parse_codec, shortest form.
std::string to_string(const CodecSpec& spec);
std::string_view to_string(Codec codec);

/// Splits "none,sign,topk:0.01" at commas and parses each.
std::vector<CodecSpec> parse_codec_list(std::string_view text);

}  // namespace thinwire::compress
