#pragma once

#include <string_view>

namespace thinwire {

enum class LogLevel { debug, info, warning, error };

/// Writes one line to standard error through the logger "thinwire" if its level
/// (THINWIRE_LOG_LEVEL) allows. Thread-safe. Never throws, so that destructors can use it.
void log(LogLevel level, std::string_view message) noexcept;

/// Puts "rank R" before each later line of this process.
void set_log_rank(int rank);

}  // namespace thinwire
