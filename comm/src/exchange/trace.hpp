#pragma once

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "thinwire/comm/trace.hpp"

namespace thinwire::comm {

/// Collects spans while it is on; any thread.
class Trace {
 public:
  void start() {
    const std::lock_guard lock{mutex_};
    spans_.clear();
    on_ = true;
  }

  std::vector<TraceSpan> stop() {
    const std::lock_guard lock{mutex_};
    on_ = false;
    return std::exchange(spans_, {});
  }

  /// From `begin` until now.
  void add(std::size_t bucket, int chunk, std::string_view name,
           std::chrono::steady_clock::time_point begin) {
    if (!on_) return;
    const std::lock_guard lock{mutex_};
    spans_.push_back({bucket, chunk, name, begin, std::chrono::steady_clock::now()});
  }

 private:
  std::atomic<bool> on_ = false;
  std::mutex mutex_;
  std::vector<TraceSpan> spans_;
};

}  // namespace thinwire::comm
