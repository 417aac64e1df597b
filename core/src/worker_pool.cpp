#include "thinwire/core/worker_pool.hpp"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "thinwire/core/error.hpp"

namespace thinwire {

struct WorkerPool::Impl {
  std::mutex turn;  // one loop at a time

  std::mutex mutex;
  std::condition_variable start;
  std::condition_variable done;
  std::uint64_t generation = 0;  // counts loops; workers sleep until it moves
  bool stopping = false;
  int busy = 0;

  const std::function<void(std::int64_t)>* body = nullptr;
  std::int64_t count = 0;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;

  std::vector<std::thread> workers;

  ~Impl() {
    {
      const std::lock_guard lock{mutex};
      stopping = true;
    }
    start.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void run_items() {
    try {
      for (std::int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) (*body)(i);
    } catch (...) {
      const std::lock_guard lock{mutex};
      if (!failure) failure = std::current_exception();
    }
  }

  void work() {
    std::uint64_t seen = 0;
    std::unique_lock lock{mutex};
    while (true) {
      start.wait(lock, [&] { return stopping || generation != seen; });
      if (stopping) return;
      seen = generation;
      lock.unlock();
      run_items();
      lock.lock();
      if (--busy == 0) done.notify_one();
    }
  }
};

WorkerPool::WorkerPool(int threads) : impl_{new Impl} {
  THINWIRE_EXPECTS(threads >= 1, InvalidArgument,
                   "WorkerPool: " + std::to_string(threads) + " threads; at least 1 is needed");
  try {
    for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([this] { impl_->work(); });
  } catch (const std::system_error& error) {  // those that have started end with impl_
    throw InvalidArgument{"WorkerPool: the system gives no more than " +
                          std::to_string(impl_->workers.size() + 1) + " of " +
                          std::to_string(threads) + " threads (" + error.what() +
                          "); ask for fewer (THINWIRE_THREADS)"};
  }
}

WorkerPool::~WorkerPool() = default;

int WorkerPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void WorkerPool::parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  if (impl_->workers.empty() || count <= 1) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  const std::lock_guard turn{impl_->turn};
  {
    const std::lock_guard lock{impl_->mutex};
    impl_->body = &body;
    impl_->count = count;
    impl_->next = 0;
    impl_->failure = nullptr;
    impl_->busy = static_cast<int>(impl_->workers.size());
    ++impl_->generation;
  }
  impl_->start.notify_all();
  impl_->run_items();
  std::unique_lock lock{impl_->mutex};
  impl_->done.wait(lock, [&] { return impl_->busy == 0; });
  if (impl_->failure) std::rethrow_exception(impl_->failure);
}

}  // namespace thinwire
