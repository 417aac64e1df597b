#include "runtime.hpp"

#include <array>
#include <cstdlib>
#include <string>

#include "backoff.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

bool is_finalised() {
  int finalised = 0;
  MPI_Finalized(&finalised);
  return finalised != 0;
}

}  // namespace

MpiRuntime& MpiRuntime::get(int level) {
  static auto& instance = *new MpiRuntime{level};  // outlives whatever runs at exit
  return instance;
}

MpiRuntime::MpiRuntime(int level) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (is_finalised()) throw TransportError{"MPI has been finalised; it cannot be used again"};
  if (initialised != 0) {
    MPI_Query_thread(&level_);
    return;
  }
  thread_ = std::make_unique<MpiThread>();
  expect_success("MPI_Init_thread",
                 thread_->call([&] { return MPI_Init_thread(nullptr, nullptr, level, &level_); }));
  std::atexit(finalise_at_exit);
}

void MpiRuntime::finalise_at_exit() {
  auto& mpi = get();
  if (!mpi.aborted_ && mpi.usable()) mpi.thread_->call(MPI_Finalize);
  mpi.thread_.reset();
}

int MpiRuntime::call_in_turn(const char* name, const std::function<int()>& function) {
  if (level_ == MPI_THREAD_SERIALIZED) {
    const std::scoped_lock turn{turn_};
    return function();
  }
  if (thread_) return thread_->call(function);
  int is_main = 0;
  MPI_Is_thread_main(&is_main);
  THINWIRE_EXPECTS(is_main != 0, TransportError,
                   std::string{name} +
                       ": the application has initialised MPI for one thread only, and this is "
                       "another; initialise it with MPI_THREAD_SERIALIZED or MPI_THREAD_MULTIPLE, "
                       "or let thinwire do it");
  return function();
}

void MpiRuntime::expect_success(const char* name, int code) const {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw TransportError{std::string{name} + " failed: " + text.data()};
}

void MpiRuntime::expect_usable(const char* name) const {
  THINWIRE_EXPECTS(!frozen_ && !is_finalised(), TransportError,
                   std::string{name} +
                       ": MPI is over in this process (finalised, or stopped after an abort); "
                       "start the job again");
}

void MpiRuntime::freeze(std::string_view reason) noexcept {
  if (frozen_.exchange(true)) return;
  note_abort();
  log(LogLevel::warning, "no MPI call is made any more in this process, because " +
                             std::string{reason} + "; end it with a status other than 0");
}

bool MpiRuntime::usable() noexcept { return !frozen_ && !is_finalised(); }

int rank_in(MPI_Comm group) {
  int rank = 0;
  MpiRuntime::get().call("MPI_Comm_rank", MPI_Comm_rank, group, &rank);
  return rank;
}

int size_of(MPI_Comm group) {
  int size = 0;
  MpiRuntime::get().call("MPI_Comm_size", MPI_Comm_size, group, &size);
  return size;
}

namespace {

void complete(MPI_Request request, const Wait& wait) {
  auto& mpi = MpiRuntime::get();
  const auto deadline = deadline_after(wait.timeout);
  for (Backoff backoff;; backoff.pause()) {
    int done = 0;
    mpi.call("MPI_Test", MPI_Test, &request, &done, MPI_STATUS_IGNORE);
    if (done != 0) return;
    if (wait.waiting) wait.waiting();
    if (std::chrono::steady_clock::now() >= deadline) break;
  }
  try {
    if (wait.late) wait.late();
    throw TimeoutError{"making an MPI communicator timed out after " +
                       std::to_string(wait.timeout.count()) +
                       " ms: some rank has not come; all ranks of the job must make it"};
  } catch (const TransportError&) {  // `late` may have called MPI
    mpi.freeze("a communicator could not be made in time");
    throw;
  }
}

}  // namespace

MPI_Comm duplicate(MPI_Comm original, const Wait& wait) {
  auto& mpi = MpiRuntime::get();
  MPI_Comm copy = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  mpi.call("MPI_Comm_idup", MPI_Comm_idup, original, &copy, &request);
  complete(request, wait);
  mpi.call("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler, copy, MPI_ERRORS_RETURN);
  return copy;
}

std::vector<std::string> host_names(MPI_Comm group, const Wait& wait) {
  auto& mpi = MpiRuntime::get();
  constexpr int width = MPI_MAX_PROCESSOR_NAME + 1;
  std::array<char, width> mine{};
  int length = 0;
  mpi.call("MPI_Get_processor_name", MPI_Get_processor_name, mine.data(), &length);
  std::vector<char> all(static_cast<std::size_t>(size_of(group)) * width);
  MPI_Request request = MPI_REQUEST_NULL;
  mpi.call("MPI_Iallgather", MPI_Iallgather, mine.data(), width, MPI_CHAR, all.data(), width,
           MPI_CHAR, group, &request);
  complete(request, wait);
  std::vector<std::string> names;
  for (std::size_t at = 0; at < all.size(); at += width) names.emplace_back(all.data() + at);
  return names;
}

}  // namespace thinwire::comm
