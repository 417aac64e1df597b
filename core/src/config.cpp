#include "thinwire/core/config.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "thinwire/core/error.hpp"

extern char** environ;

namespace thinwire {
namespace {

constexpr std::string_view prefix = "THINWIRE_";

constexpr std::array variables{
    ConfigVariable{"THINWIRE_LOG_LEVEL", "info",
                   "lowest level that is logged: debug, info, warning, error"},
    ConfigVariable{"THINWIRE_THREADS", "0",
                   "codec threads a rank; 0: cores over ranks of this host"},
    ConfigVariable{"THINWIRE_TIMEOUT", "60", "seconds that a wait may take before it raises"},
    ConfigVariable{"THINWIRE_MEMORY_LIMIT", "0",
                   "bytes of host memory for thinwire's buffers; 0: no limit"},
    ConfigVariable{"THINWIRE_SIMD", "",
                   "force a SIMD target (scalar, sse4, avx2, avx3, ...); empty: the best"},
    ConfigVariable{"THINWIRE_MPI_MODULE", "",
                   "path of libthinwire_mpi.so; empty: beside libthinwire.so"},
    ConfigVariable{"THINWIRE_NCCL", "",
                   "path of libnccl.so.2; empty: the copy in the process, else by name"},
    ConfigVariable{"THINWIRE_MASTER_ADDR", "",
                   "where rank 0 listens for the TCP control plane; empty: MASTER_ADDR"},
    ConfigVariable{"THINWIRE_MASTER_PORT", "0", "the port of that; 0: MASTER_PORT + 1"},
    ConfigVariable{"THINWIRE_JOB_SECRET", "",
                   "what ranks must know to join over TCP, the same on all; empty: made of address "
                   "and job id, which keeps jobs apart but not intruders out"},
};

const char* lookup(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

template <typename Number>
Number parse_number(const char* name, std::string_view text, Number least, Number most) {
  Number value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size() || !(value >= least) ||
      !(value <= most)) {
    throw InvalidArgument{
        fmt::format("{}='{}' is not a number from {} to {}", name, text, least, most)};
  }
  return value;
}

void refuse_unknown_variables() {
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text{*entry};
    if (!text.starts_with(prefix)) continue;
    const auto name = text.substr(0, text.find('='));
    bool known = false;
    for (const auto& variable : variables) known = known || name == variable.name;
    if (!known) {
      throw InvalidArgument{
          fmt::format("unknown environment variable {}; known are those of "
                      "docs/tuning.md, such as {}",
                      name, variables.front().name)};
    }
  }
}

}  // namespace

std::span<const ConfigVariable> config_variables() { return variables; }

Config read_config() {
  refuse_unknown_variables();
  Config result;
  if (const char* text = lookup("THINWIRE_LOG_LEVEL")) {
    const std::string_view level{text};
    if (level != "debug" && level != "info" && level != "warning" && level != "error") {
      throw InvalidArgument{
          fmt::format("THINWIRE_LOG_LEVEL='{}' is not one of debug, info, warning, error", level)};
    }
    result.log_level = level;
  }
  if (const char* text = lookup("THINWIRE_THREADS")) {
    result.threads = parse_number("THINWIRE_THREADS", text, 0, 4096);
  }
  if (const char* text = lookup("THINWIRE_TIMEOUT")) {
    const double seconds = parse_number("THINWIRE_TIMEOUT", text, 0.001, 1e6);
    result.timeout = std::chrono::milliseconds{std::llround(seconds * 1000)};
  }
  if (const char* text = lookup("THINWIRE_MEMORY_LIMIT")) {
    result.memory_limit =
        parse_number<std::size_t>("THINWIRE_MEMORY_LIMIT", text, 0, std::size_t{1} << 60);
  }
  if (const char* text = lookup("THINWIRE_SIMD")) result.simd = text;
  if (const char* text = lookup("THINWIRE_MPI_MODULE")) result.mpi_module = text;
  if (const char* text = lookup("THINWIRE_NCCL")) result.nccl = text;
  if (const char* text = lookup("THINWIRE_MASTER_ADDR")) result.master_addr = text;
  if (const char* text = lookup("THINWIRE_MASTER_PORT")) {
    result.master_port = parse_number("THINWIRE_MASTER_PORT", text, 0, 65535);
  }
  if (const char* text = lookup("THINWIRE_JOB_SECRET")) result.job_secret = text;
  return result;
}

const Config& config() {
  static const Config instance = read_config();
  return instance;
}

}  // namespace thinwire
