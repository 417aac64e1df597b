#pragma once

#include <chrono>

namespace thinwire::comm {

/// Adds the milliseconds of its life to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double& total_ms) : total_ms_{total_ms} {}
  ~Stopwatch() {
    total_ms_ += std::chrono::duration<double, std::milli>(Clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& total_ms_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace thinwire::comm
