#include "thinwire/compress/codec_spec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

constexpr std::string_view known = "none, bf16, fp16, int8, int4, sign, sign:rms, topk:DENSITY";

Codec parse_name(std::string_view name, std::string_view text) {
  for (const Codec codec : {Codec::none, Codec::bf16, Codec::fp16, Codec::int8, Codec::int4,
                            Codec::sign, Codec::topk}) {
    if (name == to_string(codec)) return codec;
  }
  throw InvalidArgument{
      fmt::format("codec '{}': unknown name '{}'; known are {}", text, name, known)};
}

double parse_density(std::string_view number, std::string_view text) {
  double density = 0;
  const auto [end, status] = std::from_chars(number.data(), number.data() + number.size(), density);
  if (status != std::errc{} || end != number.data() + number.size() ||
      !(density > 0.0 && density <= 1.0)) {
    throw InvalidArgument{
        fmt::format("codec '{}': density '{}' is not a number in (0, 1]", text, number)};
  }
  return density;
}

}  // namespace

std::string_view to_string(Codec codec) {
  switch (codec) {
    case Codec::none:
      return "none";
    case Codec::bf16:
      return "bf16";
    case Codec::fp16:
      return "fp16";
    case Codec::int8:
      return "int8";
    case Codec::int4:
      return "int4";
    case Codec::sign:
      return "sign";
    case Codec::topk:
      return "topk";
    case Codec::mixed:
      return "mixed";
  }
  return "unknown";
}

CodecSpec parse_codec(std::string_view text) {
  CodecSpec spec;
  const auto plus = text.find('+');
  const std::string_view body = text.substr(0, plus);
  const auto colon = body.find(':');
  spec.codec = parse_name(body.substr(0, colon), text);

  const bool lossless_enough = spec.codec == Codec::none || spec.codec == Codec::bf16;
  spec.feedback = lossless_enough ? Feedback::none : Feedback::ef;
  if (plus != std::string_view::npos) {
    const std::string_view feedback = text.substr(plus + 1);
    if (feedback != "ef" && feedback != "noef") {
      throw InvalidArgument{
          fmt::format("codec '{}': feedback '{}' is neither 'ef' nor 'noef'", text, feedback)};
    }
    if (feedback == "ef" && spec.codec == Codec::none) {
      throw InvalidArgument{
          fmt::format("codec '{}': none loses nothing, so it has no residual", text)};
    }
    spec.feedback = feedback == "ef" ? Feedback::ef : Feedback::none;
  }

  const bool has_option = colon != std::string_view::npos;
  const std::string_view option = has_option ? body.substr(colon + 1) : std::string_view{};
  if (spec.codec == Codec::topk) {
    if (!has_option) {
      throw InvalidArgument{
          fmt::format("codec '{}': topk needs a density, as in 'topk:0.01'", text)};
    }
    const auto slash = option.find('/');
    spec.density = parse_density(option.substr(0, slash), text);
    spec.density_out = slash == std::string_view::npos
                           ? spec.density
                           : parse_density(option.substr(slash + 1), text);
  } else if (has_option) {
    if (spec.codec != Codec::sign || option != "rms") {
      throw InvalidArgument{fmt::format("codec '{}': {} has no option '{}'; known are {}", text,
                                        to_string(spec.codec), option, known)};
    }
    spec.sign_scale = SignScale::rms;
  }
  return spec;
}

std::string to_string(const CodecSpec& spec) {
  std::string text{to_string(spec.codec)};
  if (spec.codec == Codec::topk) {
    text += fmt::format(":{}", spec.density);
    if (spec.density_out != spec.density) text += fmt::format("/{}", spec.density_out);
  }
  if (spec.codec == Codec::sign && spec.sign_scale == SignScale::rms) text += ":rms";
  const Feedback usual = parse_codec(text).feedback;
  if (spec.feedback != usual) text += spec.feedback == Feedback::ef ? "+ef" : "+noef";
  return text;
}

std::vector<CodecSpec> parse_codec_list(std::string_view text) {
  std::vector<CodecSpec> specs;
  for (std::size_t from = 0; from <= text.size();) {
    const auto comma = std::min(text.find(',', from), text.size());
    specs.push_back(parse_codec(text.substr(from, comma - from)));
    from = comma + 1;
  }
  return specs;
}

}  // namespace thinwire::compress
