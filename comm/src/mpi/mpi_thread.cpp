#include "mpi_thread.hpp"

namespace thinwire::comm {

MpiThread::~MpiThread() {
  {
    const std::scoped_lock lock{mutex_};
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int MpiThread::call(const std::function<int()>& function) {
  const std::scoped_lock turn{turn_};
  std::unique_lock lock{mutex_};
  function_ = &function;
  changed_.notify_all();
  changed_.wait(lock, [this] { return function_ == nullptr; });
  return result_;
}

void MpiThread::run() {
  std::unique_lock lock{mutex_};
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || function_ != nullptr; });
    if (stopping_) return;
    result_ = (*function_)();
    function_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace thinwire::comm
