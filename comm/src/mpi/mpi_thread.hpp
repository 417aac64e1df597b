#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace thinwire::comm {

/// The thread that initialises MPI. Where MPI takes calls from that thread only, all are handed to
/// it; else it sleeps until MPI is finalised, which is for the same thread to do. Thread-safe.
class MpiThread {
 public:
  MpiThread() : thread_{[this] { run(); }} {}
  ~MpiThread();

  /// Makes the call on the thread and returns its result. Waits for its turn.
  int call(const std::function<int()>& function);

 private:
  void run();

  std::mutex turn_;   // of the callers
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  const std::function<int()>* function_ = nullptr;
  int result_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace thinwire::comm
