#include <gmock/gmock.h>

#include <stdexcept>
#include <thread>

#include "ranks.hpp"
#include "thinwire/core/error.hpp"
#include "values.hpp"

namespace thinwire::comm::testing {
namespace {

class Split : public RanksTest {};

float sum_of_ranks(Communicator& comm, int value) {
  Values data{DType::f32, 1};
  data.set(0, static_cast<float>(value));
  comm.allreduce(data.view(), data.view(), ReduceOp::sum)->wait(patience);
  return data.get(0);
}

TEST_P(Split, ByParity_FormsTwoGroupsThatWorkSideBySide) {
  on_all([](Communicator& comm) {
    const int color = comm.rank() % 2;
    const auto child = comm.split(color, 0);
    ASSERT_NE(child, nullptr);
    EXPECT_EQ(child->size(), (comm.size() + 1 - color) / 2);
    EXPECT_EQ(child->rank(), comm.rank() / 2);
    EXPECT_EQ(child->transport(), comm.transport());
    EXPECT_EQ(child->local_size(), child->size());
    int expected = 0;
    for (int r = color; r < comm.size(); r += 2) expected += r;
    EXPECT_EQ(sum_of_ranks(*child, comm.rank()), static_cast<float>(expected));
    EXPECT_EQ(sum_of_ranks(comm, 1), static_cast<float>(comm.size()));
  });
}

TEST_P(Split, ByDescendingKey_ReversesTheRanks) {
  on_all([](Communicator& comm) {
    const auto child = comm.split(7, -comm.rank());
    EXPECT_EQ(child->rank(), comm.size() - 1 - comm.rank());
    std::vector<std::byte> data(1, static_cast<std::byte>(comm.rank()));
    child->broadcast(bytes_of(data), 0)->wait(patience);
    EXPECT_EQ(data[0], static_cast<std::byte>(comm.size() - 1));
  });
}

TEST_P(Split, NegativeColor_GivesNullAndLeavesTheOthersAlone) {
  on_all([](Communicator& comm) {
    const bool out = comm.rank() == 0;
    const auto child = comm.split(out ? -5 : 3, 0);
    EXPECT_EQ(child == nullptr, out);
    if (child) {
      EXPECT_EQ(child->size(), comm.size() - 1);
      child->barrier()->wait(patience);
    }
    comm.barrier()->wait(patience);
  });
}

TEST_P(Split, OfASplit_Works) {
  on_all([](Communicator& comm) {
    const auto half = comm.split(comm.rank() < comm.size() / 2 ? 0 : 1, comm.rank());
    const auto one = half->split(half->rank(), 0);
    EXPECT_EQ(one->size(), 1);
    EXPECT_EQ(sum_of_ranks(*one, 5), 5.0f);
    half->barrier()->wait(patience);
  });
}

TEST_P(Split, OfOneHalf_NeedsNoRankOfTheOther) {
  on_all([](Communicator& comm) {
    const bool first = comm.rank() < (comm.size() + 1) / 2;
    const auto half = comm.split(first ? 0 : 1, 0);
    if (first) {
      const auto again = half->split(0, -half->rank());
      const auto third = again->split(0, 0);
      // Each in a step of its own, and a message that is late in one is none in another.
      const auto sum = static_cast<float>(half->size());
      EXPECT_EQ(sum_of_ranks(*third, 1), sum);
      EXPECT_EQ(sum_of_ranks(*half, 2), 2 * sum);
      EXPECT_EQ(sum_of_ranks(*again, 3), 3 * sum);
    }
    comm.barrier()->wait(patience);
  });
}

TEST_P(Split, AbortOfTheParent_EndsTheChildToo) {
  on_all([](Communicator& comm) {
    if (comm.size() < 3) return;
    // Rank 0 fails outside of the child; the child's ranks wait for each other.
    const auto child = comm.split(comm.rank() == 0 ? -1 : 1, 0);
    if (comm.rank() == 0) {
      comm.abort("the disk is full");
    } else if (comm.rank() == 1) {
      const auto error = error_of<AbortedError>([&] {
        for (;;) child->control().all_gather("", patience);  // until the news are there
      });
      EXPECT_THAT(error.what(), ::testing::HasSubstr("the disk is full"));
    } else {
      std::vector<std::byte> data(1);
      const auto error =
          error_of<AbortedError>([&] { child->recv(bytes_of(data), 0)->wait(patience); });
      EXPECT_THAT(error.what(), ::testing::HasSubstr("the disk is full"));
      EXPECT_THAT(error.what(), ::testing::HasSubstr("is rank 0"));
    }
  });
}

TEST_P(Split, AbortOfTheParentByAnOutsider_BlamesNoMember) {
  on_all([](Communicator& comm) {
    if (comm.size() < 3) return;
    const int outsider = comm.size() - 1;
    const auto child = comm.split(comm.rank() == outsider ? -1 : 0, comm.rank());
    if (comm.rank() == outsider) {
      comm.abort("the disk is full");
      return;
    }
    // The last to look finds what the others have told in the child already.
    if (comm.rank() == 0) std::this_thread::sleep_for(short_wait);
    const auto error = error_of<AbortedError>([&] {
      for (;;) child->barrier()->wait(patience);
    });
    EXPECT_EQ(error.peer, -1) << error.what();
    EXPECT_THAT(error.what(), ::testing::HasSubstr("the disk is full"));
  });
}

TEST_P(Split, AbortThatNamesARankOfNobody_NamesNobody) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const auto lane = comm.split(0, comm.rank());
    lane->control().tie_to_parent();
    if (comm.rank() == 1) lane->abort("the wire is cut", 70000);  // a rank of a larger communicator
    const auto error = error_of<AbortedError>([&] {
      for (;;) comm.control().all_gather("", patience);
    });
    EXPECT_EQ(error.peer, -1);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("the wire is cut"));
  });
}

TEST_P(Split, OfTwoByTwoThreads_DoNotMix) {
  on_all([](Communicator& comm) {
    if (comm.size() < 3) return;
    const bool member = comm.rank() + 1 < comm.size();
    const auto first = comm.split(member ? 0 : -1, comm.rank());
    const auto second = comm.split(member ? 0 : -1, comm.rank());
    for (int round = 0; member && round < 3; ++round) {
      std::unique_ptr<Communicator> of_first, of_second;
      // All but one rank: such a split shares its transport with its parent.
      const int color = comm.rank() == 0 && comm.size() > 3 ? -1 : 0;
      std::thread other{[&] { of_second = second->split(color, comm.rank()); }};
      of_first = first->split(color, comm.rank());
      other.join();
      if (color < 0) continue;
      // Calls of both are under way together, begun in another order on every second rank.
      const auto size = static_cast<std::size_t>(of_first->size());
      std::byte a{1}, b{2};
      std::vector<std::byte> all_a(size), all_b(size);
      WorkHandle work_a, work_b;
      if (comm.rank() % 2 == 0) work_a = of_first->all_gather({&a, 1}, bytes_of(all_a));
      work_b = of_second->all_gather({&b, 1}, bytes_of(all_b));
      if (!work_a) work_a = of_first->all_gather({&a, 1}, bytes_of(all_a));
      work_a->wait(patience);
      work_b->wait(patience);
      EXPECT_EQ(all_a, std::vector<std::byte>(size, a));
      EXPECT_EQ(all_b, std::vector<std::byte>(size, b));
    }
    comm.barrier()->wait(patience);
  });
}

TEST_P(Split, TiedToItsParent_EndsItToo) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const auto lane = comm.split(0, -comm.rank());  // ranks in the opposite order
    lane->control().tie_to_parent();
    if (comm.rank() == 1) lane->abort("the wire is cut");
    try {
      comm.control().all_gather("", patience);
      comm.control().all_gather("", patience);
      ADD_FAILURE() << "the parent goes on";
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, 1);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("the wire is cut"));
    }
  });
}

TEST_P(Split, DestroyedByAnException_IsAborted) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const auto run_child = [&] {
      const auto child = comm.split(0, 0);
      if (child->rank() == 1) throw std::runtime_error{"not of its making"};
      child->barrier()->wait(patience);
    };
    if (comm.rank() == 1) {
      EXPECT_THROW(run_child(), std::runtime_error);
    } else {
      EXPECT_EQ(error_of<AbortedError>(run_child).peer, 1);
    }
    comm.barrier()->wait(patience);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Split, ::testing::ValuesIn(rank_counts()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace thinwire::comm::testing
