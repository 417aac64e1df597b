#include "thinwire/core/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <string>

#include "thinwire/core/config.hpp"

namespace thinwire {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = std::make_shared<spdlog::logger>(
        "thinwire", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%H:%M:%S.%e %n %^%l%$ %v");
    made->set_level(spdlog::level::from_str(config().log_level));
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

void log(LogLevel level, std::string_view message) noexcept {
  try {
    logger().log(level_of(level), message);
  } catch (...) {  // a line lost is better than a destructor that throws
  }
}

void set_log_rank(int rank) {
  logger().set_pattern("%H:%M:%S.%e %n %^%l%$ rank " + std::to_string(rank) + ": %v");
}

}  // namespace thinwire
