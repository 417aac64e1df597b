#include "files.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <iterator>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline::tool {
namespace {

std::string read_file(const std::string& file) {
  std::ifstream stream{file, std::ios::binary};
  THINWIRE_EXPECTS(stream.good(), IoError, fmt::format("cannot read '{}'", file));
  return {std::istreambuf_iterator<char>{stream}, std::istreambuf_iterator<char>{}};
}

/// Puts the file's name before what is wrong with it.
template <typename Body>
auto named(const std::string& file, Body body) {
  try {
    return body(read_file(file));
  } catch (const FormatError& error) {
    throw FormatError{fmt::format("{}: {}", file, error.what())};
  } catch (const InvalidArgument& error) {
    throw InvalidArgument{fmt::format("{}: {}", file, error.what())};
  }
}

}  // namespace

Input read_input(const InputOptions& options) {
  if (options.file.ends_with(".json")) {
    Plan plan = read_plan(options.file);
    return {plan.schedule, plan};
  }
  const Dialect dialect = options.dialect == "torch-old" ? Dialect::torch_old : Dialect::torch;
  return named(options.file, [&](const std::string& text) -> Input {
    const bool csv = options.file.ends_with(".csv");
    return {csv ? from_csv(text, dialect) : from_text(text), std::nullopt};
  });
}

Profile read_profile(const std::string& file) { return named(file, profile_from_json); }

Plan read_plan(const std::string& file) { return named(file, plan_from_json); }

void write_output(const std::string& file, const std::string& text) {
  if (file.empty() || file == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return;
  }
  std::ofstream stream{file, std::ios::binary};
  stream << text;
  stream.close();
  THINWIRE_EXPECTS(stream.good(), IoError, fmt::format("cannot write '{}'", file));
}

}  // namespace thinwire::pipeline::tool
