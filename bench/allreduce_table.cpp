#include "allreduce_table.hpp"

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "thinwire/core/error.hpp"

namespace thinwire::bench {

std::size_t parse_bytes(const std::string& text) {
  std::size_t used = 0;
  const double number = std::stod(text, &used);
  const std::string unit = text.substr(used);
  const double factor = unit.empty()  ? 1
                        : unit == "K" ? 1024.
                        : unit == "M" ? 1048576.
                        : unit == "G" ? 1073741824.
                                      : 0;
  THINWIRE_EXPECTS(factor > 0 && number > 0, InvalidArgument,
                   fmt::format("size '{}': give bytes, or a number with K, M or G", text));
  return static_cast<std::size_t>(number * factor);
}

void print_head() {
  std::cout << fmt::format("{:>12} {:>12} {:>6} {:>14} {:>12} {:>9} {:>9} {:>12} {:>7}\n", "bytes",
                           "elements", "dtype", "codec", "time_us", "algbw", "busbw", "wire_bytes",
                           "#wrong")
            << fmt::format("{:>12} {:>12} {:>6} {:>14} {:>12} {:>9} {:>9} {:>12} {:>7}\n", "", "",
                           "", "", "", "GB/s", "GB/s", "per rank", "");
}

void print_row(const Row& row) {
  std::cout << fmt::format("{:>12} {:>12} {:>6} {:>14} {:>12.1f} {:>9.3f} {:>9.3f} {:>12} {:>7}\n",
                           row.bytes, row.elements, to_string(row.dtype), row.codec, row.time_us,
                           row.algbw_gbs(), row.busbw_gbs(), row.wire_bytes,
                           row.wrong < 0 ? "-" : std::to_string(row.wrong))
            << std::flush;
}

nlohmann::json to_json(const Row& row) {
  return {{"codec", row.codec},
          {"transport", row.transport},
          {"ranks", row.ranks},
          {"bytes", row.bytes},
          {"dtype", to_string(row.dtype)},
          {"time_us", row.time_us},
          {"algbw_gbs", row.algbw_gbs()},
          {"busbw_gbs", row.busbw_gbs()},
          {"wire_bytes", row.wire_bytes},
          {"wrong", row.wrong < 0 ? nlohmann::json{nullptr} : nlohmann::json(row.wrong)}};
}

}  // namespace thinwire::bench
