#include <fmt/format.h>

#include <exception>
#include <mutex>
#include <thread>

#include "point_to_point_communicator.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"
#include "thread_group.hpp"

namespace thinwire::comm {
namespace {

/// The first error that is not the echo of another rank's, or else the first echo.
class FirstError {
 public:
  void take(std::exception_ptr error, bool echo) {
    const std::scoped_lock lock{mutex_};
    if (!error_ || (is_echo_ && !echo)) {
      error_ = error;
      is_echo_ = echo;
    }
  }

  void rethrow() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
  bool is_echo_ = false;
};

void run_rank(Communicator& communicator, const std::function<void(Communicator&)>& body,
              FirstError& errors) {
  try {
    body(communicator);
  } catch (const AbortedError& error) {  // of a split, maybe: then this one has not ended yet
    errors.take(std::current_exception(), true);
    communicator.control().post_abort({-1, error.what()});
  } catch (const std::exception& error) {
    errors.take(std::current_exception(), false);
    communicator.abort(error.what());
  } catch (...) {
    errors.take(std::current_exception(), false);
    communicator.abort("an error that is no std::exception");
  }
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int ranks) {
  THINWIRE_EXPECTS(ranks >= 1, InvalidArgument,
                   fmt::format("make_thread_communicators: {} ranks; at least 1", ranks));
  const auto group = std::make_shared<ThreadGroup>(ranks);
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < ranks; ++rank) {
    communicators.push_back(
        std::make_unique<PointToPointCommunicator>(make_thread_endpoint(group, rank)));
  }
  return communicators;
}

void run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  const auto communicators = make_thread_communicators(ranks);
  FirstError errors;
  std::vector<std::thread> threads;
  for (const auto& communicator : communicators) {
    threads.emplace_back([&] { run_rank(*communicator, body, errors); });
  }
  for (auto& thread : threads) thread.join();
  errors.rethrow();
}

}  // namespace thinwire::comm
