#include <gmock/gmock.h>

#include <stdexcept>
#include <thread>

#include "ranks.hpp"
#include "thinwire/core/error.hpp"
#include "values.hpp"

namespace thinwire::comm::testing {
namespace {

using ::testing::HasSubstr;

class Failures : public RanksTest {};

TEST_P(Failures, SizesThatDiffer_AreNamedByTheReceiverAndEndAllOthers) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    // Rank 0 sends more than rank 1 expects; all meet in the barrier or fail before it.
    std::vector<std::byte> data(comm.rank() == 0 ? 300 : 200);
    try {
      if (comm.rank() == 0) comm.send(bytes_of(data), 1)->wait(patience);
      if (comm.rank() == 1) comm.recv(bytes_of(data), 0)->wait(patience);
      comm.barrier()->wait(patience);
      ADD_FAILURE() << "rank " << comm.rank() << " saw no error";
    } catch (const MismatchError& error) {
      EXPECT_EQ(comm.rank(), 1);
      EXPECT_EQ(error.peer, 0);
      EXPECT_THAT(error.mine, HasSubstr("200"));
      EXPECT_THAT(error.theirs, HasSubstr("300"));
      EXPECT_THAT(error.what(), HasSubstr("rank 1: recv of 200 bytes from rank 0"));
    } catch (const AbortedError& error) {
      EXPECT_NE(comm.rank(), 1);
      EXPECT_EQ(error.peer, 1);
      EXPECT_THAT(error.what(), HasSubstr("300"));
    }
  });
}

TEST_P(Failures, ReductionsThatDiffer_AreNamed) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    // The same number of bytes, so that only the agreement of the ranks can tell.
    const auto dtype = comm.rank() == 0 ? DType::f16 : DType::bf16;
    Values in{dtype, 32 * comm.size()}, out{dtype, 32};
    try {
      comm.reduce_scatter(in.view(), out.view(), ReduceOp::sum)->wait(patience);
      // A rank whose neighbours agree with it may end before the news arrive.
      for (;;) comm.barrier()->wait(patience);
    } catch (const MismatchError& error) {
      EXPECT_THAT(error.mine, HasSubstr(to_string(dtype)));
      EXPECT_THAT(error.what(), HasSubstr("fp16"));
      EXPECT_THAT(error.what(), HasSubstr("bf16"));
    } catch (const AbortedError& error) {
      EXPECT_THAT(error.what(), HasSubstr("fp16"));
    }
  });
}

TEST_P(Failures, AbortWhileOthersWait_NamesTheCulpritAndItsReason) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const int culprit = comm.size() - 1;
    if (comm.rank() == culprit) {
      comm.abort("out of paper");
      const auto error = error_of<AbortedError>([&] { comm.barrier()->wait(patience); });
      EXPECT_EQ(error.peer, culprit);
      return;
    }
    std::vector<std::byte> data(100'000 * static_cast<std::size_t>(comm.size()));
    auto work = comm.all_to_all(bytes_of(data), bytes_of(data));
    const auto error = error_of<AbortedError>([&] { work->wait(patience); });
    EXPECT_EQ(error.peer, culprit);
    EXPECT_THAT(error.what(), HasSubstr("out of paper"));
    EXPECT_THAT(error.what(), HasSubstr("all_to_all"));
    EXPECT_THROW(work->test(), AbortedError) << "the same error again";
    EXPECT_THROW(comm.barrier()->wait(patience), AbortedError) << "later calls fail too";
    EXPECT_THROW(comm.control().all_gather("x", patience), AbortedError);
  });
}

TEST_P(Failures, TimeOut_NamesTheLatePeerAndEndsTheOthers) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    // The last rank does not come to the gathering; rank 0 is the first to lose patience.
    const int late = comm.size() - 1;
    if (comm.rank() == late) {
      const auto error = error_of<AbortedError>([&] { comm.control().all_gather("", patience); });
      EXPECT_EQ(error.peer, late);
      return;
    }
    std::vector<std::byte> mine(10), all(10 * static_cast<std::size_t>(comm.size()));
    auto work = comm.all_gather(bytes_of(mine), bytes_of(all));
    if (comm.rank() == 0) {
      const auto error = error_of<TimeoutError>([&] { work->wait(report_wait(comm)); });
      EXPECT_EQ(error.peer, late);
      EXPECT_THAT(error.what(), HasSubstr("rank 0: all_gather of "));
      EXPECT_THAT(error.what(), HasSubstr("timed out after "));
      EXPECT_THAT(error.what(), HasSubstr("waiting for rank " + std::to_string(late)));
    } else {
      const auto error = error_of<AbortedError>([&] { work->wait(patience); });
      EXPECT_EQ(error.peer, late);
    }
  });
}

TEST_P(Failures, TimeOut_OverAChainOfWaits_NamesTheRankAtItsEnd) {
  on_all([](Communicator& comm) {
    if (comm.size() < 3) return;
    // Each rank waits for the next one; the last does not wait for anybody but for the verdict,
    // and tells nobody.
    const int last = comm.size() - 1;
    std::vector<std::byte> data(1);
    if (comm.rank() == last) {
      while (!comm.control().abort_notice()) std::this_thread::sleep_for(short_wait / 10);
      EXPECT_EQ(comm.control().abort_notice()->culprit, last);
      return;
    }
    auto work = comm.recv(bytes_of(data), comm.rank() + 1);
    try {
      work->wait(report_wait(comm));
      ADD_FAILURE() << "rank " << comm.rank() << " saw no error";
    } catch (const TransportError& error) {
      EXPECT_EQ(error.peer, last) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("rank " + std::to_string(last)));
    }
  });
}

TEST_P(Failures, TimeOut_OverWaitsInTwoSplits_NamesTheRankThatWaitsInNone) {
  on_all([](Communicator& comm) {
    if (comm.size() < 3) return;
    // As the lanes of an engine: some ranks already wait in the second one.
    const auto first = comm.split(0, comm.rank());
    const auto second = comm.split(0, comm.rank());
    first->control().tie_to_parent();
    second->control().tie_to_parent();
    const int silent = comm.size() - 1;
    if (comm.rank() == silent) {
      while (!comm.control().abort_notice()) std::this_thread::sleep_for(short_wait / 10);
      return;
    }
    auto& lane = comm.rank() == 0 ? *first : *second;
    std::vector<std::byte> mine(10), all(10 * static_cast<std::size_t>(comm.size()));
    auto work = lane.all_gather(bytes_of(mine), bytes_of(all));
    try {
      work->wait(report_wait(comm));
      ADD_FAILURE() << "rank " << comm.rank() << " saw no error";
    } catch (const TransportError& error) {
      EXPECT_EQ(error.peer, silent) << error.what();
    }
    comm.abort("a lane failed", silent);
  });
}

TEST_P(Failures, TimeOut_WhenAllWait_SaysThatTheCallsDiffer) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    std::vector<std::byte> data(1);
    auto work = comm.recv(bytes_of(data), (comm.rank() + 1) % comm.size());
    try {
      work->wait(report_wait(comm));
      ADD_FAILURE() << "rank " << comm.rank() << " saw no error";
    } catch (const TransportError& error) {
      EXPECT_THAT(error.what(), HasSubstr("do all ranks make the same calls?"));
      EXPECT_THAT(error.what(), HasSubstr("recv of 1 bytes from rank"));
    }
  });
}

TEST_P(Failures, UnfinishedWork_DestroyedByAnotherError_AbortsInsteadOfHanging) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    std::vector<std::byte> data(10);
    if (comm.rank() == 0) {
      EXPECT_THROW(
          {
            const auto work = comm.recv(bytes_of(data), 1);
            throw std::runtime_error{"something else"};
          },
          std::runtime_error);
    }
    const auto error = error_of<AbortedError>([&] {
      for (;;) comm.barrier()->wait(patience);
    });
    EXPECT_EQ(error.peer, 0);
    EXPECT_THAT(error.what(), HasSubstr("given up because of another error"));
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Failures, ::testing::ValuesIn(rank_counts()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace thinwire::comm::testing
