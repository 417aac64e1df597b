#include "allreduce_sizes.hpp"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

#include "thinwire/core/error.hpp"

namespace thinwire::bench {

std::size_t parse_bytes(const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit{rest, static_cast<std::size_t>(end - rest)};
  const double factor = unit.empty()  ? 1
                        : unit == "K" ? 0x1p10
                        : unit == "M" ? 0x1p20
                        : unit == "G" ? 0x1p30
                                      : 0;
  const double bytes = number * factor;
  THINWIRE_EXPECTS(
      error == std::errc{} && bytes >= 1 && bytes <= 0x1p62, InvalidArgument,
      fmt::format("size '{}': give bytes, or a number with K, M or G; 1 to 2^62 bytes", text));
  return static_cast<std::size_t>(bytes);
}

std::vector<std::size_t> parse_sizes(const std::string& first, const std::string& last, int factor,
                                     std::size_t element_bytes) {
  const std::size_t least = parse_bytes(first);
  const std::size_t most = parse_bytes(last);
  THINWIRE_EXPECTS(least <= most, InvalidArgument,
                   fmt::format("the smallest size, {}, is above the largest, {}", first, last));
  THINWIRE_EXPECTS(least >= element_bytes, InvalidArgument,
                   fmt::format("the smallest size, {}, is less than one element of {} bytes", first,
                               element_bytes));
  const auto step = static_cast<std::size_t>(factor);
  THINWIRE_EXPECTS(factor >= 2, InvalidArgument,
                   fmt::format("step factor {}: sizes must grow; at least 2", factor));
  std::vector<std::size_t> sizes{least};
  while (sizes.back() <= most / step) sizes.push_back(sizes.back() * step);
  return sizes;
}

}  // namespace thinwire::bench
