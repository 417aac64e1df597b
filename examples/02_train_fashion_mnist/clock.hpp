#pragma once

#include <ctime>

namespace fashion {

/// Processor time of this thread: what computing costs even when ranks share a core.
inline double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace fashion
