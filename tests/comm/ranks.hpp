#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "thinwire/comm/communicator.hpp"

/// How a test program gets its ranks: main_threads.cpp or main_mpi.cpp. The same test bodies run
/// on both.
namespace thinwire::comm::testing {

/// The numbers of ranks that this program can run a test on.
std::vector<int> rank_counts();

/// Runs `body` on each of `ranks` ranks, all on a communicator that no other test has used.
/// An error of the body is thrown again here. Under MPI each process runs its own rank, ranks from
/// `ranks` on do nothing, and the test is skipped where there are not enough.
void on_ranks(int ranks, const std::function<void(Communicator&)>& body);

/// A test that runs once for each of rank_counts().
class RanksTest : public ::testing::TestWithParam<int> {
 protected:
  void on_all(const std::function<void(Communicator&)>& body) { on_ranks(GetParam(), body); }
};

/// For waits that must end: far longer than they take.
constexpr Timeout patience{20000};

/// A time-out that shall expire, where no other rank needs to have come far by then.
constexpr Timeout short_wait{200};

/// A time-out that shall expire after every other rank has said what it waits for: on a busy
/// machine a rank of eight may not run for a second.
inline Timeout report_wait(const Communicator& comm) { return Timeout{600 + 300 * comm.size()}; }

/// The error of type E that `call` throws; fails the test if it throws none. Others pass through.
template <typename E, typename Call>
E error_of(Call&& call) {
  try {
    call();
  } catch (const E& error) {
    return error;
  }
  throw std::runtime_error{"no error of the expected type was thrown"};
}

}  // namespace thinwire::comm::testing
