#include "allreduce_table.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "thinwire/core/error.hpp"

namespace thinwire::bench {

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

namespace {

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

}  // namespace

void require_writable(const std::string& file) {
  const std::ofstream out{file, std::ios::app};
  THINWIRE_EXPECTS(out.good(), IoError, fmt::format("cannot write '{}'", file));
}

void write_rows(const std::string& file, const std::vector<Row>& rows) {
  auto json = nlohmann::json::array();
  for (const Row& row : rows) json.push_back(to_json(row));
  std::ofstream out{file};
  out << json.dump(2) << '\n';
  out.close();
  THINWIRE_EXPECTS(out.good(), IoError, fmt::format("cannot write '{}'", file));
}

}  // namespace thinwire::bench
