#include <gmock/gmock.h>

#include "ranks.hpp"
#include "thinwire/comm/fault_injection.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"
#include "values.hpp"

namespace thinwire::comm::testing {
namespace {

using Kind = Fault::Kind;
using Phase = Fault::Phase;

constexpr int ranks = 3;
constexpr int faulty = 1;
constexpr Timeout limit{600};

constexpr const char* operations[] = {"allreduce",  "reduce_scatter", "all_gather",
                                      "all_to_all", "broadcast",      "barrier"};

/// Every operation in turn, then twice a barrier, at which a fault of the last one shows.
void call_everything(Communicator& comm) {
  Values in{DType::f32, 3 * ranks}, out{DType::f32, 3 * ranks}, part{DType::f32, 3};
  std::vector<std::byte> some(30 * ranks), all(30 * ranks * ranks);
  comm.allreduce(in.view(), out.view(), ReduceOp::sum)->wait(limit);
  comm.reduce_scatter(in.view(), part.view(), ReduceOp::sum)->wait(limit);
  comm.all_gather(bytes_of(some), bytes_of(all))->wait(limit);
  comm.all_to_all(bytes_of(some), bytes_of(some))->wait(limit);
  comm.broadcast(bytes_of(some), 0)->wait(limit);
  comm.barrier()->wait(limit);
  comm.barrier()->wait(limit);
}

class SilentRank : public ::testing::TestWithParam<std::tuple<const char*, Kind, Phase>> {};

TEST_P(SilentRank, InEachOperation_IsNamedOnEveryRank) {
  const auto [operation, kind, phase] = GetParam();
  const Fault fault{
      .kind = kind, .rank = faulty, .operation = operation, .phase = phase, .duration = 2 * limit};
  run_ranks(ranks, [&](Communicator& inner) {
    const auto comm = inject_faults(inner, {fault});
    try {
      call_everything(*comm);
      comm->barrier()->wait(limit);
      ADD_FAILURE() << "rank " << comm->rank() << " saw no error";
    } catch (const TransportError& error) {
      EXPECT_EQ(error.peer, faulty) << error.what();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Operations, SilentRank,
                         ::testing::Combine(::testing::ValuesIn(operations),
                                            ::testing::Values(Kind::kill),
                                            ::testing::Values(Phase::post)));
INSTANTIATE_TEST_SUITE_P(Phases, SilentRank,
                         ::testing::Combine(::testing::Values("all_to_all"),
                                            ::testing::Values(Kind::kill, Kind::stall),
                                            ::testing::Values(Phase::under_way, Phase::done)));
INSTANTIATE_TEST_SUITE_P(Drop, SilentRank,
                         ::testing::Combine(::testing::Values("all_gather"),
                                            ::testing::Values(Kind::drop),
                                            ::testing::Values(Phase::post)));

TEST(FaultInjection, StallShorterThanTheTimeout_ChangesNothing) {
  run_ranks(ranks, [](Communicator& inner) {
    const Fault fault{.kind = Kind::stall, .rank = faulty, .duration = limit / 4};
    call_everything(*inject_faults(inner, {fault}));
  });
}

TEST(FaultInjection, Mismatch_OfEachOperation_EndsEveryRank) {
  for (const auto* operation : operations) {
    if (operation == std::string_view{"barrier"}) continue;  // has no size
    run_ranks(ranks, [&](Communicator& inner) {
      const auto comm =
          inject_faults(inner, {{.kind = Kind::mismatch, .rank = faulty, .operation = operation}});
      try {
        call_everything(*comm);
        for (;;) comm->barrier()->wait(patience);
      } catch (const MismatchError& error) {
        EXPECT_NE(error.mine, error.theirs);
      } catch (const AbortedError& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("ranks disagree")) << operation;
      }
    });
  }
}

TEST(FaultInjection, Corrupt_TurnsOverOneBitOfWhatTheOthersGet) {
  run_ranks(ranks, [](Communicator& inner) {
    const auto comm =
        inject_faults(inner, {{.kind = Kind::corrupt, .rank = faulty, .operation = "all_gather"}});
    auto mine = message(comm->rank(), 0, 100);
    std::vector<std::byte> all(100 * ranks), again(100 * ranks);
    comm->all_gather(bytes_of(mine), bytes_of(all))->wait(patience);
    comm->all_gather(bytes_of(mine), bytes_of(again))->wait(patience);
    EXPECT_TRUE(mine == message(comm->rank(), 0, 100)) << "the caller's buffer is not touched";
    const std::size_t place = 100 * faulty + 50;
    EXPECT_EQ(all[place], again[place] ^ std::byte{1});
    all[place] ^= std::byte{1};
    EXPECT_TRUE(all == again) << "one byte, one time";
  });
}

TEST(FaultInjection, Call_CountsMatchingCallsAlsoOfSplits) {
  run_ranks(ranks, [](Communicator& inner) {
    const auto comm = inject_faults(
        inner, {{.kind = Kind::corrupt, .rank = faulty, .operation = "broadcast", .call = 2}});
    const auto child = comm->split(0, 0);
    std::vector<std::byte> data(1);
    comm->broadcast(bytes_of(data), faulty)->wait(patience);
    comm->barrier()->wait(patience);
    child->broadcast(bytes_of(data), faulty)->wait(patience);
    EXPECT_EQ(data[0], std::byte{0});
    child->broadcast(bytes_of(data), faulty)->wait(patience);
    EXPECT_EQ(data[0], comm->rank() == faulty ? std::byte{0} : std::byte{1});
  });
}

TEST(FaultInjection, Names_ThatAreUnknown_AreRefused) {
  EXPECT_EQ(parse_fault_kind("corrupt"), Kind::corrupt);
  EXPECT_EQ(parse_fault_phase("under_way"), Phase::under_way);
  EXPECT_THROW(parse_fault_kind("explode"), InvalidArgument);
  EXPECT_THROW(parse_fault_phase("never"), InvalidArgument);
}

}  // namespace
}  // namespace thinwire::comm::testing
