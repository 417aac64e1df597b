#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <string>
#include <vector>

#include "report.hpp"

int main(int argc, char** argv) {
  CLI::App app{"Compares runs of 02_train_fashion_mnist by codec"};
  std::vector<std::string> files;
  std::string json;
  app.add_option("runs", files, "files that --json wrote")->required();
  app.add_option("--json", json, "write the rows to this file, as one list");
  CLI11_PARSE(app, argc, argv);
  try {
    std::vector<fashion::RunRow> rows;
    for (const auto& file : files) rows.push_back(fashion::read_run(file));
    fmt::print("{}", fashion::comparison(rows));
    if (!json.empty()) fashion::write_rows(json, rows);
  } catch (const std::exception& error) {
    fmt::print(stderr, "02_compare_runs: {}\n", error.what());
    return 1;
  }
  return 0;
}
