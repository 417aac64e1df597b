#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "tcp/tcp_group.hpp"
#include "tcp_ranks.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using ::testing::HasSubstr;
constexpr Timeout patience{20000};

class TcpRanks : public ::testing::TestWithParam<int> {};

TEST_P(TcpRanks, AllGather_OfThreads_GivesEveryRanksBytes) {
  const int ranks = GetParam();
  const int port = free_port();
  run_tcp_threads(ranks, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, ranks, port));
    for (int round = 0; round < 20; ++round) {
      const auto texts = control->all_gather(fmt::format("{}/{}", rank, round), patience);
      ASSERT_EQ(texts.size(), static_cast<std::size_t>(ranks));
      for (int i = 0; i < ranks; ++i) {
        EXPECT_EQ(texts[static_cast<std::size_t>(i)], fmt::format("{}/{}", i, round));
      }
    }
  });
}

TEST_P(TcpRanks, AllGather_OfProcesses_GivesEveryRanksBytes) {
  const int ranks = GetParam();
  const int port = free_port();
  const auto statuses = run_tcp_processes(ranks, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, ranks, port));
    const auto texts = control->all_gather(std::to_string(rank), patience);
    for (int i = 0; i < ranks; ++i) {
      if (texts[static_cast<std::size_t>(i)] != std::to_string(i)) return false;
    }
    return true;
  });
  for (const int status : statuses) EXPECT_EQ(status, 0);
}

TEST(TcpControlPlane, ManyRanksAtOnce_AllGetIn) {
  constexpr int ranks = 160;
  const int port = free_port();
  run_tcp_threads(ranks, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, ranks, port));
    EXPECT_EQ(control->all_gather("", patience).size(), static_cast<std::size_t>(ranks));
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, TcpRanks, ::testing::Values(1, 2, 3, 5, 8));

TEST(TcpControlPlane, AllGather_OfTheLongestMessage_Works) {
  const int port = free_port();
  run_tcp_threads(3, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, 3, port));
    const std::string text(ControlPlane::max_message, static_cast<char>('a' + rank));
    const auto texts = control->all_gather(text, patience);
    EXPECT_EQ(texts[2], std::string(ControlPlane::max_message, 'c'));
  });
}

TEST(TcpControlPlane, Abort_ReachesEveryRankInsideItsWait) {
  const int port = free_port();
  run_tcp_threads(4, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, 4, port));
    control->all_gather("", patience);
    if (rank == 2) {
      control->post_abort({2, "the disk is full"});
      return;
    }
    try {
      control->all_gather("", patience);
      ADD_FAILURE() << "rank " << rank << " was not aborted";
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, 2);
      EXPECT_THAT(error.what(), HasSubstr("the disk is full"));
    }
  });
}

TEST(TcpControlPlane, RankThatDoesNotCall_IsNamedInTheTimeout) {
  const int port = free_port();
  run_tcp_threads(3, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, 3, port));
    control->all_gather("", patience);
    if (rank == 1) {  // alive, but elsewhere, until the others have given up
      while (!control->abort_notice()) std::this_thread::sleep_for(Timeout{5});
      EXPECT_EQ(control->abort_notice()->culprit, 1);
      return;
    }
    try {
      control->all_gather("", Timeout{2000});
      ADD_FAILURE() << "rank " << rank << " did not time out";
    } catch (const TransportError& error) {  // its own time-out, or the news of the other's
      EXPECT_EQ(error.peer, 1);
    }
  });
}

/// Rank `victim` of 4 processes does `deed` between two rounds; all others must name it.
void expect_culprit_named(int victim, const std::function<void()>& deed, Timeout timeout) {
  const int port = free_port();
  const auto statuses = run_tcp_processes(
      4,
      [&](int rank) {
        const auto control = make_tcp_control_plane(rendezvous_of(rank, 4, port, timeout));
        try {
          control->all_gather("", patience);
          if (rank == victim) deed();  // the others may still be in the first round
          control->all_gather("", patience);
        } catch (const AbortedError& error) {
          if (error.peer == victim) return true;
          std::fprintf(stderr, "rank %d blames %d: %s\n", rank, error.peer, error.what());
        }
        return false;
      },
      victim);
  for (int rank = 0; rank < 4; ++rank) {
    if (rank != victim) {
      EXPECT_EQ(statuses[static_cast<std::size_t>(rank)], 0) << "rank " << rank;
    }
  }
}

TEST(TcpControlPlane, RankThatIsKilled_IsNamedOnAllOthers) {
  expect_culprit_named(
      3, [] { raise(SIGKILL); }, patience);
}

TEST(TcpControlPlane, Rank0ThatIsKilled_IsNamedOnAllOthers) {
  expect_culprit_named(
      0, [] { raise(SIGKILL); }, patience);
}

TEST(TcpControlPlane, RankThatIsStopped_IsNamedOnAllOthers) {
  expect_culprit_named(
      1, [] { raise(SIGSTOP); }, Timeout{4000});
}

TEST(TcpControlPlane, Rank0ThatIsStopped_IsNamedOnAllOthers) {
  expect_culprit_named(
      0, [] { raise(SIGSTOP); }, Timeout{4000});
}

TEST(TcpControlPlane, QuietButLivingRanks_AreNotLost) {
  const int port = free_port();
  run_tcp_threads(3, [&](int rank) {
    const auto control = make_tcp_control_plane(rendezvous_of(rank, 3, port, Timeout{2000}));
    control->all_gather("", patience);
    std::this_thread::sleep_for(Timeout{4500});  // well past the time-out: heartbeats must do
    EXPECT_EQ(control->abort_notice(), std::nullopt);
    control->all_gather("", patience);
  });
}

TEST(TcpControlPlane, RanksThatLeaveInAnyOrder_AreNoFailure) {
  for (int first = 0; first < 3; ++first) {
    const int port = free_port();
    std::atomic<int> there{0};
    run_tcp_threads(3, [&](int rank) {
      const auto control = make_tcp_control_plane(rendezvous_of(rank, 3, port));
      control->all_gather("", patience);
      if (rank == first) return;
      std::this_thread::sleep_for(Timeout{100});
      EXPECT_EQ(control->abort_notice(), std::nullopt);
      // The two that stay can still reach each other, through rank 0 if need be.
      ++there;
      while (there < 2) std::this_thread::yield();
    });
  }
}

TEST(TcpGroup, Split_MakesGroupsThatDoNotMix) {
  const int port = free_port();
  run_tcp_threads(5, [&](int rank) {
    TcpGroup world{rendezvous_of(rank, 5, port)};
    const auto half = world.split(rank % 2, -rank);  // descending order
    const auto texts = half->control().all_gather(std::to_string(rank), patience);
    EXPECT_EQ(texts, rank % 2 == 0 ? (std::vector<std::string>{"4", "2", "0"})
                                   : (std::vector<std::string>{"3", "1"}));
    EXPECT_EQ(texts[static_cast<std::size_t>(half->control().rank())], std::to_string(rank));
    EXPECT_EQ(world.split(-1, 0), nullptr);
    world.control().all_gather("", patience);
  });
}

TEST(TcpGroup, AbortOfOneGroup_LeavesTheOtherAndTheParentAlone) {
  const int port = free_port();
  run_tcp_threads(4, [&](int rank) {
    TcpGroup world{rendezvous_of(rank, 4, port)};
    const auto half = world.split(rank % 2, 0);
    if (rank == 3) half->control().post_abort({1, "enough"});
    if (rank == 1) {
      while (!half->control().abort_notice()) std::this_thread::sleep_for(Timeout{1});
      EXPECT_EQ(half->control().abort_notice()->culprit, 1);
    }
    world.control().all_gather("", patience);
    if (rank % 2 == 0) half->control().all_gather("", patience);
  });
}

TEST(TcpGroup, AbortOfTheParent_ReachesTheGroups) {
  const int port = free_port();
  run_tcp_threads(4, [&](int rank) {
    TcpGroup world{rendezvous_of(rank, 4, port)};
    const auto half = world.split(rank / 2, 0);
    if (rank == 3) {
      world.control().post_abort({3, "enough"});
      return;
    }
    try {
      half->control().all_gather("", patience);
      half->control().all_gather("", patience);
      if (rank == 2) ADD_FAILURE() << "rank 3 never called, and nobody noticed";
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, rank == 2 ? 1 : -1);
    }
  });
}

}  // namespace
}  // namespace thinwire::comm
