#include "thinwire/comm/buckets.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

std::uint32_t section_of(Bucket& bucket, const compress::CodecSpec& codec) {
  const auto found = std::find(bucket.sections.begin(), bucket.sections.end(), codec);
  if (found != bucket.sections.end()) {
    return static_cast<std::uint32_t>(found - bucket.sections.begin());
  }
  bucket.sections.push_back(codec);
  return static_cast<std::uint32_t>(bucket.sections.size() - 1);
}

void check(const Parameter& parameter, std::unordered_set<std::string>& names) {
  THINWIRE_EXPECTS(names.insert(parameter.name).second, InvalidArgument,
                   fmt::format("two parameters are named '{}'; residuals are keyed by name, so "
                               "names must be unique",
                               parameter.name));
  for (const std::int64_t extent : parameter.shape) {
    THINWIRE_EXPECTS(
        extent >= 0, InvalidArgument,
        fmt::format("parameter '{}' has the extent {} in its shape", parameter.name, extent));
  }
}

}  // namespace

std::int64_t Parameter::numel() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

BucketLayout make_buckets(std::span<const Parameter> parameters, std::size_t cap_bytes,
                          const CodecRule& rule) {
  THINWIRE_EXPECTS(cap_bytes > 0, InvalidArgument,
                   "bucket cap of 0 bytes; give at least one element");
  BucketLayout layout;
  std::unordered_set<std::string> names;
  for (const Parameter& parameter : parameters) {
    check(parameter, names);
    const std::int64_t length = parameter.numel();
    const std::size_t bytes = static_cast<std::size_t>(length) * size_of(parameter.dtype);
    const bool fits =
        !layout.buckets.empty() && layout.buckets.back().dtype == parameter.dtype &&
        static_cast<std::size_t>(layout.buckets.back().elements) * size_of(parameter.dtype) +
                bytes <=
            cap_bytes;
    if (!fits) layout.buckets.emplace_back().dtype = parameter.dtype;
    Bucket& bucket = layout.buckets.back();
    layout.placements.push_back({layout.buckets.size() - 1, bucket.elements});
    const std::int64_t rows = parameter.shape.empty() ? 1 : parameter.shape.front();
    bucket.spans.push_back({.parameter = parameter.name,
                            .parameter_offset = 0,
                            .source_offset = bucket.elements,
                            .length = length,
                            .rows = rows,
                            .cols = rows > 0 ? length / rows : 0,
                            .section = section_of(bucket, rule(parameter))});
    bucket.elements += length;
  }
  return layout;
}

CodecRule one_codec(compress::CodecSpec spec) {
  return [spec](const Parameter&) { return spec; };
}

}  // namespace thinwire::comm
