#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace thinwire::python {

/// Makes calls in the order given, on a thread of its own: to enqueue a bucket's exchange costs the
/// host as much as a layer's backward, and autograd's thread has its own work to enqueue meanwhile.
/// The first exception of a posted call is thrown by the next one that is waited for; calls posted
/// after it and before that are dropped. Callers must not hold the GIL while they wait.
class LaunchThread {
 public:
  LaunchThread() : thread_{[this] { run(); }} {}
  ~LaunchThread() {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  LaunchThread(const LaunchThread&) = delete;
  LaunchThread& operator=(const LaunchThread&) = delete;

  /// Does not wait.
  void post(std::function<void()> call) {
    push([this, call = std::move(call)] {
      if (failure_) return;
      try {
        call();
      } catch (...) {
        failure_ = std::current_exception();
      }
    });
  }

  /// A call that is made whatever went wrong before. Does not wait; the destructor does.
  void finish(std::function<void()> call) { push(std::move(call)); }

  /// Waits until all calls so far and this one have been made; returns what it returned.
  template <typename Call>
  std::invoke_result_t<Call> wait(Call&& call) {
    // Shared: the result is there, and the waiter gone, before the task has returned.
    auto task = std::make_shared<std::packaged_task<std::invoke_result_t<Call>()>>([this, &call] {
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
      return call();
    });
    auto result = task->get_future();
    push([task = std::move(task)] { (*task)(); });
    return result.get();
  }

 private:
  void push(std::function<void()> call) {
    {
      const std::scoped_lock lock{mutex_};
      calls_.push_back(std::move(call));
    }
    wake_.notify_one();
  }

  void run() {
    std::unique_lock lock{mutex_};
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || !calls_.empty(); });
      if (calls_.empty()) return;
      const auto call = std::move(calls_.front());
      calls_.pop_front();
      lock.unlock();
      call();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> calls_;
  std::exception_ptr failure_;  // touched by the thread alone
  bool stopping_ = false;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace thinwire::python
