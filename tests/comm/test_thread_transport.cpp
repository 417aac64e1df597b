#include <gmock/gmock.h>

#include <stdexcept>

#include "ranks.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm::testing {
namespace {

TEST(ThreadTransport, MakeThreadCommunicators_NoRanks_IsRefused) {
  EXPECT_THROW(make_thread_communicators(0), InvalidArgument);
}

TEST(ThreadTransport, MakeThreadCommunicators_GivesRanksInOrderOnOneHost) {
  const auto communicators = make_thread_communicators(3);
  ASSERT_EQ(communicators.size(), 3u);
  for (int r = 0; r < 3; ++r) {
    const auto& comm = *communicators[static_cast<std::size_t>(r)];
    EXPECT_EQ(comm.rank(), r);
    EXPECT_EQ(comm.size(), 3);
    EXPECT_EQ(comm.local_rank(), r);
    EXPECT_EQ(comm.local_size(), 3);
    EXPECT_EQ(comm.transport(), "threads");
    EXPECT_EQ(comm.device(), Device::host);
  }
}

TEST(ThreadTransport, RunRanks_BodyThrows_ReleasesTheOthersAndRethrowsItsError) {
  try {
    run_ranks(4, [](Communicator& comm) {
      if (comm.rank() == 2) throw std::domain_error{"rank 2 is at fault"};
      comm.barrier()->wait(patience);
    });
    FAIL() << "no error came back";
  } catch (const std::domain_error& error) {
    EXPECT_STREQ(error.what(), "rank 2 is at fault");
  }
}

TEST(ThreadTransport, Abort_FromAnotherThread_EndsAWait) {
  const auto communicators = make_thread_communicators(2);
  std::vector<std::byte> data(1);
  auto work = communicators[0]->recv({data.data(), data.size()}, 1);
  std::thread other{[&] { communicators[0]->abort("called from elsewhere"); }};
  const auto error = error_of<AbortedError>([&] { work->wait(patience); });
  other.join();
  EXPECT_EQ(error.peer, 0);
  EXPECT_THAT(error.what(), ::testing::HasSubstr("called from elsewhere"));
}

}  // namespace
}  // namespace thinwire::comm::testing
