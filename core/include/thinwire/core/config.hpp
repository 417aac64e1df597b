#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>

namespace thinwire {

/// Everything that the environment can set, read once and immutable afterwards. The table of
/// variables is config_variables(); docs/tuning.md prints it.
struct Config {
  std::string log_level = "info";            ///< THINWIRE_LOG_LEVEL
  int threads = 0;                           ///< THINWIRE_THREADS; 0: cores over local ranks
  std::chrono::milliseconds timeout{60000};  ///< THINWIRE_TIMEOUT, in seconds
  std::size_t memory_limit = 0;              ///< THINWIRE_MEMORY_LIMIT, in bytes; 0: none
  std::string simd;                          ///< THINWIRE_SIMD: force a target; empty: the best
  std::string mpi_module;                    ///< THINWIRE_MPI_MODULE: path of libthinwire_mpi.so
  std::string nccl;                          ///< THINWIRE_NCCL: path of libnccl.so.2
  std::string master_addr;                   ///< THINWIRE_MASTER_ADDR; empty: MASTER_ADDR
  int master_port = 0;                       ///< THINWIRE_MASTER_PORT; 0: MASTER_PORT + 1
  std::string job_secret;                    ///< THINWIRE_JOB_SECRET
};

/// One row of the documentation of Config.
struct ConfigVariable {
  const char* name;
  const char* default_value;
  const char* meaning;
};

/// All THINWIRE_ variables, in the order of Config.
std::span<const ConfigVariable> config_variables();

/// Reads the environment. Throws InvalidArgument naming the variable and its value, also for an
/// unknown THINWIRE_ variable, which is most often a misspelt one.
Config read_config();

/// The process-wide configuration, read at the first call.
const Config& config();

}  // namespace thinwire
