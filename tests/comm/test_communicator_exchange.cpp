#include <numeric>

#include "ranks.hpp"
#include "thinwire/core/error.hpp"
#include "values.hpp"

namespace thinwire::comm::testing {
namespace {

constexpr std::size_t sizes[] = {0, 1, 3, 1000, 1'000'001};

class Exchange : public RanksTest {};

TEST_P(Exchange, AllGather_EverySize_GivesEveryRanksPartInOrder) {
  on_all([](Communicator& comm) {
    for (const auto bytes : sizes) {
      auto in = message(comm.rank(), 0, bytes);
      std::vector<std::byte> out(bytes * static_cast<std::size_t>(comm.size()));
      comm.all_gather(bytes_of(in), bytes_of(out))->wait(patience);
      std::vector<std::byte> expected;
      for (int r = 0; r < comm.size(); ++r) {
        const auto part = message(r, 0, bytes);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      EXPECT_TRUE(out == expected) << bytes << " bytes on rank " << comm.rank();
    }
  });
}

TEST_P(Exchange, AllGather_InputInItsPlace_GivesTheSame) {
  on_all([](Communicator& comm) {
    constexpr std::size_t bytes = 100;
    std::vector<std::byte> out(bytes * static_cast<std::size_t>(comm.size()));
    const ByteView mine{out.data() + bytes * static_cast<std::size_t>(comm.rank()), bytes};
    const auto part = message(comm.rank(), 0, bytes);
    std::copy(part.begin(), part.end(), mine.data);
    comm.all_gather(mine, bytes_of(out))->wait(patience);
    for (int r = 0; r < comm.size(); ++r) {
      EXPECT_EQ(out[bytes * static_cast<std::size_t>(r) + 5], byte_of(r, 0, 5));
    }
  });
}

std::vector<std::byte> parts_to_all(int rank, int ranks, std::size_t bytes) {
  std::vector<std::byte> data;
  for (int to = 0; to < ranks; ++to) {
    const auto part = message(rank, to, bytes);
    data.insert(data.end(), part.begin(), part.end());
  }
  return data;
}

std::vector<std::byte> parts_from_all(int rank, int ranks, std::size_t bytes) {
  std::vector<std::byte> data;
  for (int from = 0; from < ranks; ++from) {
    const auto part = message(from, rank, bytes);
    data.insert(data.end(), part.begin(), part.end());
  }
  return data;
}

TEST_P(Exchange, AllToAll_EverySize_TransposesParts) {
  on_all([](Communicator& comm) {
    for (const auto bytes : sizes) {
      auto in = parts_to_all(comm.rank(), comm.size(), bytes);
      std::vector<std::byte> out(in.size());
      comm.all_to_all(bytes_of(in), bytes_of(out))->wait(patience);
      EXPECT_TRUE(out == parts_from_all(comm.rank(), comm.size(), bytes)) << bytes;
      comm.all_to_all(bytes_of(in), bytes_of(in))->wait(patience);
      EXPECT_TRUE(in == out) << "in place, " << bytes;
    }
  });
}

TEST_P(Exchange, AllToAllV_UnequalPartsInAnyPlace_ArriveWhereAsked) {
  on_all([](Communicator& comm) {
    // Rank i sends 10 i + j bytes to rank j; parts stand in reverse order, two bytes apart.
    const auto ranks = static_cast<std::size_t>(comm.size());
    const auto me = static_cast<std::size_t>(comm.rank());
    std::vector<std::size_t> in_bytes(ranks), in_offsets(ranks), out_bytes(ranks),
        out_offsets(ranks);
    std::size_t in_end = 0, out_end = 0;
    for (std::size_t k = ranks; k-- > 0;) {
      in_bytes[k] = 10 * me + k;
      in_offsets[k] = in_end;
      in_end += in_bytes[k] + 2;
      out_bytes[k] = 10 * k + me;
      out_offsets[k] = out_end;
      out_end += out_bytes[k] + 2;
    }
    std::vector<std::byte> in(in_end), out(out_end, std::byte{0xEE});
    for (int to = 0; to < comm.size(); ++to) {
      const auto t = static_cast<std::size_t>(to);
      const auto part = message(comm.rank(), to, in_bytes[t]);
      std::copy(part.begin(), part.end(), in.begin() + static_cast<std::ptrdiff_t>(in_offsets[t]));
    }
    comm.all_to_all_v(bytes_of(in), in_bytes, in_offsets, bytes_of(out), out_bytes, out_offsets)
        ->wait(patience);
    std::vector<std::byte> expected(out_end, std::byte{0xEE});
    for (int from = 0; from < comm.size(); ++from) {
      const auto f = static_cast<std::size_t>(from);
      const auto part = message(from, comm.rank(), out_bytes[f]);
      std::copy(part.begin(), part.end(),
                expected.begin() + static_cast<std::ptrdiff_t>(out_offsets[f]));
    }
    EXPECT_TRUE(out == expected);
  });
}

TEST_P(Exchange, Broadcast_EveryRootAndSize_ReachesEveryRank) {
  on_all([](Communicator& comm) {
    for (int root = 0; root < comm.size(); ++root) {
      for (const auto bytes : sizes) {
        auto data = message(comm.rank(), 0, bytes);
        comm.broadcast(bytes_of(data), root)->wait(patience);
        EXPECT_TRUE(data == message(root, 0, bytes)) << "root " << root << ", " << bytes;
      }
    }
  });
}

TEST_P(Exchange, SendRecv_SeveralUnderWay_ArriveInTheOrderOfCalls) {
  on_all([](Communicator& comm) {
    if (comm.size() == 1) return;
    const int next = (comm.rank() + 1) % comm.size();
    const int previous = (comm.rank() + comm.size() - 1) % comm.size();
    constexpr int count = 8;
    std::vector<std::vector<std::byte>> sent, heard;
    std::vector<WorkHandle> works;
    for (int i = 0; i < count; ++i) {
      const std::size_t bytes = i % 2 == 0 ? 300'000 : 3;
      sent.push_back(message(comm.rank(), i, bytes));
      heard.emplace_back(bytes);
    }
    for (int i = 0; i < count; ++i) {
      const auto k = static_cast<std::size_t>(i);
      works.push_back(comm.recv(bytes_of(heard[k]), previous));
      works.push_back(comm.send(bytes_of(sent[k]), next));
    }
    // Waiting in reverse order must not change who gets what.
    for (auto work = works.rbegin(); work != works.rend(); ++work) (*work)->wait(patience);
    for (int i = 0; i < count; ++i) {
      const auto& data = heard[static_cast<std::size_t>(i)];
      EXPECT_TRUE(data == message(previous, i, data.size())) << "message " << i;
    }
  });
}

TEST_P(Exchange, SeveralOperations_UnderWayTogether_DoNotMix) {
  on_all([](Communicator& comm) {
    const auto ranks = static_cast<std::size_t>(comm.size());
    auto reduced = Values::of_rank(comm.rank(), DType::f32, 5000);
    auto in = parts_to_all(comm.rank(), comm.size(), 700);
    auto gathered_in = message(comm.rank(), 0, 700);
    std::vector<std::byte> out(in.size()), gathered(700 * ranks);
    std::vector<std::uint64_t> words{static_cast<std::uint64_t>(comm.rank())};

    std::vector<WorkHandle> works;
    works.push_back(comm.all_to_all(bytes_of(in), bytes_of(out)));
    works.push_back(comm.allreduce(reduced.view(), reduced.view(), ReduceOp::sum));
    works.push_back(comm.barrier());
    works.push_back(comm.all_gather(bytes_of(gathered_in), bytes_of(gathered)));
    works.push_back(comm.allreduce_max(words));
    // Each rank finishes them in an order of its own.
    for (std::size_t i = 0; i < works.size(); ++i) {
      works[(i + static_cast<std::size_t>(comm.rank())) % works.size()]->test();
    }
    for (auto work = works.rbegin(); work != works.rend(); ++work) (*work)->wait(patience);

    EXPECT_TRUE(out == parts_from_all(comm.rank(), comm.size(), 700));
    EXPECT_EQ(words[0], ranks - 1);
    float sum = 0;
    for (int r = 0; r < comm.size(); ++r) {
      sum += value_of(r, 4999);
      EXPECT_EQ(gathered[700 * static_cast<std::size_t>(r) + 699], byte_of(r, 0, 699));
    }
    EXPECT_EQ(reduced.get(4999), sum);
  });
}

TEST_P(Exchange, Work_OnceDone_StaysDone) {
  on_all([](Communicator& comm) {
    auto work = comm.barrier();
    work->wait(patience);
    EXPECT_TRUE(work->test());
    work->wait(Timeout{0});
  });
}

TEST_P(Exchange, Barrier_NoRankLeavesBeforeTheLastHasCome) {
  on_all([](Communicator& comm) {
    // Each rank in turn is the last to come: until it has said so, the others' barrier stays open.
    for (int last = 0; last < comm.size(); ++last) {
      std::vector<WorkHandle> told;
      std::vector<std::byte> word(1);
      if (comm.rank() != last) {
        auto work = comm.barrier();
        EXPECT_FALSE(comm.size() > 1 && work->test());
        comm.send(bytes_of(word), last)->wait(patience);
        work->wait(patience);
      } else {
        for (int r = 0; r < comm.size(); ++r) {
          if (r != last) comm.recv(bytes_of(word), r)->wait(patience);
        }
        comm.barrier()->wait(patience);
      }
    }
  });
}

TEST_P(Exchange, BadArguments_AreRefusedAndLeaveTheCommunicatorUsable) {
  on_all([](Communicator& comm) {
    std::vector<std::byte> data(8 * static_cast<std::size_t>(comm.size()));
    std::vector<std::byte> other(data.size() + 1);
    const std::vector<std::size_t> none;
    std::vector<std::size_t> zeros(static_cast<std::size_t>(comm.size())), beyond = zeros;
    beyond.back() = data.size() + 1;
    const auto all = bytes_of(data);
    EXPECT_THROW(comm.all_gather(all, bytes_of(other)), InvalidArgument);
    EXPECT_THROW(comm.all_to_all(all, bytes_of(other)), InvalidArgument);
    EXPECT_THROW(comm.all_to_all_v(all, none, none, bytes_of(other), none, none), InvalidArgument);
    EXPECT_THROW(comm.all_to_all_v(all, beyond, zeros, bytes_of(other), zeros, zeros),
                 InvalidArgument);
    EXPECT_THROW(comm.all_to_all_v(all, zeros, beyond, bytes_of(other), zeros, zeros),
                 InvalidArgument);
    EXPECT_THROW(comm.broadcast(all, comm.size()), InvalidArgument);
    EXPECT_THROW(comm.broadcast({nullptr, 1}, 0), InvalidArgument);
    EXPECT_THROW(comm.send(all, -1), InvalidArgument);
    EXPECT_THROW(comm.send(all, comm.rank()), InvalidArgument);
    EXPECT_THROW(comm.recv(all, comm.size()), InvalidArgument);
    comm.barrier()->wait(patience);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Exchange, ::testing::ValuesIn(rank_counts()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace thinwire::comm::testing
