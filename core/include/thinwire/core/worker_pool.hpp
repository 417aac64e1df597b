#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace thinwire {

/// A fixed set of threads for data-parallel loops. One loop at a time: parallel_for may be called
/// from any thread, but not from inside a loop's body; concurrent calls take turns.
class WorkerPool {
 public:
  /// `threads` >= 1 counts the calling thread: with 1 the loop runs where it is called.
  explicit WorkerPool(int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const;

  /// Calls body(i) once for each i in [0, count), in any order, and returns when all are done.
  /// Items are handed out one by one, so they may differ in cost. The first exception of a body is
  /// thrown again here after the others have ended.
  void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire
