#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "mpi_thread.hpp"

namespace thinwire::comm {

/// MPI in this process, and the one place through which thinwire calls it: here calls come to the
/// threads that MPI accepts them from, and every return code is looked at. None of the calls that
/// go through here once MPI is initialised blocks.
///
/// Thread-safe.
class MpiRuntime {
 public:
  /// Initialises MPI at the first call, unless the application has; then it is finalised at exit,
  /// but not after an abort: MPI_Finalize waits for all ranks.
  /// `level`: the thread support to ask for.
  static MpiRuntime& get(int level = MPI_THREAD_MULTIPLE);

  /// Calls an MPI function; throws TransportError with MPI's own words if it fails.
  template <typename Function, typename... Arguments>
  void call(const char* name, Function* function, Arguments... arguments) {
    expect_success(name, call_raw(name, function, arguments...));
  }

  /// The same, but hands the return code on. Throws TransportError once MPI is frozen.
  template <typename Function, typename... Arguments>
  int call_raw(const char* name, Function* function, Arguments... arguments) {
    expect_usable(name);
    if (level_ == MPI_THREAD_MULTIPLE) return function(arguments...);
    return call_in_turn(name, [&] { return function(arguments...); });
  }

  void expect_success(const char* name, int code) const;

  /// A communicator has been aborted: MPI will not be finalised.
  void note_abort() noexcept { aborted_ = true; }

  /// MPI is never called again in this process: a transfer that cannot be cancelled would write
  /// into memory that is no longer its own. Logs why.
  void freeze(std::string_view reason) noexcept;

  /// False after a freeze or MPI_Finalize.
  bool usable() noexcept;

 private:
  explicit MpiRuntime(int level);
  int call_in_turn(const char* name, const std::function<int()>& function);
  static void finalise_at_exit();
  void expect_usable(const char* name) const;

  int level_ = MPI_THREAD_SINGLE;  // what MPI gives
  std::mutex turn_;
  std::unique_ptr<MpiThread> thread_;  // null if the application has initialised MPI
  std::atomic<bool> aborted_{false};
  std::atomic<bool> frozen_{false};
};

/// How long to wait for all ranks of an MPI communicator, and what to do meanwhile.
struct Wait {
  std::chrono::milliseconds timeout;
  std::function<void()> waiting;  ///< called now and then; may be empty
  std::function<void()> late;     ///< throws, and names who has not come; may be empty
};

/// Collective: a copy of `original` whose errors are return codes. Polls, so that a rank that does
/// not come is a TimeoutError and no hang.
///
/// The copies that transports live on are left to MPI_Finalize. MPI_Comm_free is collective and
/// wants no message under way, while a communicator of ours may end at any time on each rank; and a
/// late message (an abort notice) to a freed communicator would reach the one that is made next.
MPI_Comm duplicate(MPI_Comm original, const Wait& wait);

/// Collective over `group`: the names of all ranks' hosts, by rank. Polls as duplicate() does.
std::vector<std::string> host_names(MPI_Comm group, const Wait& wait);

int rank_in(MPI_Comm group);
int size_of(MPI_Comm group);

}  // namespace thinwire::comm
