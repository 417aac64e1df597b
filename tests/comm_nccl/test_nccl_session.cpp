// The NCCL communicator without a GPU: NCCL and CUDA are tables of functions that fail on demand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <thread>

#include "fake_nccl.hpp"
#include "nccl/nccl_communicator.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/cuda_sharded.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using ::testing::HasSubstr;
constexpr Timeout patience{20000};
constexpr int ranks = 4;

/// Buffers of fake device memory; nothing reads them.
struct DeviceBytes {
  explicit DeviceBytes(std::size_t count) : bytes(count) {}
  std::vector<std::byte> bytes;
  ByteView view() { return {bytes.data(), bytes.size(), Device::cuda}; }
  TensorView tensor() {
    return {bytes.data(), static_cast<std::int64_t>(bytes.size() / 4), DType::f32, Device::cuda};
  }
};

class NcclSessions : public ::testing::Test {
 protected:
  /// Runs body(rank, communicator) on threads whose bootstrap is the thread transport.
  void run(const NcclOptions& options, const std::function<void(Communicator&)>& body) {
    on_ranks([&](Communicator& bootstrap) {
      const auto communicator = make_nccl_communicator(bootstrap, options, nccl, cuda);
      body(*communicator);
    });
  }
  void run(const std::function<void(Communicator&)>& body) {
    run({.unique_id = {}, .max_ctas = 0, .timeout = patience}, body);
  }

  static void on_ranks(const std::function<void(Communicator&)>& body) {
    const auto bootstraps = make_thread_communicators(ranks);
    std::vector<std::thread> threads;
    for (const auto& bootstrap : bootstraps) {
      threads.emplace_back([&] {
        FakeGpus::me = bootstrap->rank();
        try {
          body(*bootstrap);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "rank " << FakeGpus::me << ": " << error.what();
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }

  void TearDown() override { EXPECT_EQ(gpus.open_communicators(), 0); }

  FakeGpus gpus;
  NcclFunctions nccl = gpus.nccl();
  CudaFunctions cuda = gpus.cuda();
};

/// The culprit that `call` throws an error about, -2 if it throws none.
int blamed(const std::function<void()>& call) {
  try {
    call();
  } catch (const TransportError& error) {
    return error.peer;
  }
  return -2;
}

/// Fake operations end whether the others have called or not; this waits for them.
void meet(Communicator& communicator) { communicator.control().all_gather("", patience); }

TEST_F(NcclSessions, Start_InProgressForAWhile_RecordsNoEventBeforeSuccess) {
  for (int i = 0; i < ranks; ++i) gpus.rank(i).polls_until_ready = 50 * i;
  run([&](Communicator& communicator) {
    EXPECT_EQ(communicator.transport(), "nccl");
    EXPECT_EQ(communicator.device(), Device::cuda);
    EXPECT_EQ(communicator.local_size(), ranks);
    EXPECT_EQ(communicator.local_rank(), communicator.rank());
    DeviceBytes data{64};
    communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::avg)->wait(patience);
    communicator.barrier()->wait(patience);
  });
  for (int i = 0; i < ranks; ++i) {
    EXPECT_FALSE(gpus.rank(i).recorded_while_starting);
    EXPECT_EQ(gpus.rank(i).ids, i == 0 ? 1 : 0);
    EXPECT_EQ(gpus.rank(i).destroys, 2) << "the non-blocking one of the start, and its child";
    EXPECT_EQ(gpus.rank(i).aborts, 0);
  }
}

TEST_F(NcclSessions, End_BeforeThePeers_DoesNotWaitForThem) {
  run([&](Communicator& communicator) {
    meet(communicator);  // past the start, which destroys one too
    if (communicator.rank() == 0) gpus.rank(0).peers_are_late = true;
  });
  EXPECT_EQ(gpus.rank(0).destroys, 1);
  gpus.rank(0).peers_are_late = false;
  while (gpus.open_communicators() > 0) std::this_thread::yield();
  EXPECT_EQ(gpus.rank(0).destroys, 2);
  EXPECT_EQ(gpus.rank(0).aborts, 0);
}

TEST_F(NcclSessions, ManyOperations_ReuseTheirEvents) {
  run([&](Communicator& communicator) {
    DeviceBytes data{64};
    for (int i = 0; i < 50; ++i) {
      communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum)->wait(patience);
      communicator.barrier()->wait(patience);
      std::this_thread::sleep_for(Timeout{1});
    }
    EXPECT_LT(gpus.open_events(), ranks * 100);
  });
}

TEST_F(NcclSessions, InitThatFailsOnOneRank_RaisesOnAllAndNamesIt) {
  gpus.rank(1).init_result = ncclSystemError;
  for (int i = 0; i < ranks; ++i) {
    if (i != 1) gpus.rank(i).polls_until_ready = 1 << 30;  // they wait for rank 1
  }
  on_ranks([&](Communicator& bootstrap) {
    EXPECT_EQ(blamed([&] { make_nccl_communicator(bootstrap, {}, nccl, cuda); }), 1);
  });
}

TEST_F(NcclSessions, InitThatNeverEnds_TimesOut) {
  for (int i = 0; i < ranks; ++i) gpus.rank(i).polls_until_ready = 1 << 30;
  on_ranks([&](Communicator& bootstrap) {
    EXPECT_THROW(make_nccl_communicator(bootstrap, {.timeout = Timeout{200}}, nccl, cuda),
                 TransportError);
  });
}

TEST_F(NcclSessions, VersionsThatDiffer_AreCaughtBeforeInit) {
  gpus.rank(2).version = 22703;
  on_ranks([&](Communicator& bootstrap) {
    try {
      make_nccl_communicator(bootstrap, {}, nccl, cuda);
      ADD_FAILURE() << "two versions of NCCL were mixed";
    } catch (const MismatchError& error) {
      EXPECT_EQ(error.field, "version of NCCL");
      EXPECT_THAT(error.what(), HasSubstr("2.27.3"));
      EXPECT_THAT(error.what(), HasSubstr("2.28.9"));
    }
  });
  for (int i = 0; i < ranks; ++i) EXPECT_EQ(gpus.rank(i).inits, 0);
}

TEST_F(NcclSessions, TwoRanksOnOneGpu_AreRefusedWithTheWayOut) {
  gpus.rank(3).gpu = 0;
  std::atomic<int> told{0};
  on_ranks([&](Communicator& bootstrap) {
    try {
      make_nccl_communicator(bootstrap, {}, nccl, cuda);
      ADD_FAILURE() << "one GPU was given to two ranks";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), HasSubstr("CUDA_VISIBLE_DEVICES"));
      ++told;
    } catch (const AbortedError&) {
    }
  });
  EXPECT_EQ(told, 2);
}

TEST_F(NcclSessions, UniqueIdOfTheCaller_IsTaken) {
  run({.unique_id = std::string(NCCL_UNIQUE_ID_BYTES, 'x'), .timeout = patience},
      [](Communicator&) {});
  EXPECT_EQ(gpus.rank(0).ids, 0);
}

TEST_F(NcclSessions, UniqueIdOfAnotherLength_IsRefused) {
  on_ranks([&](Communicator& bootstrap) {
    EXPECT_ANY_THROW(make_nccl_communicator(bootstrap, {.unique_id = "short"}, nccl, cuda));
  });
  EXPECT_EQ(gpus.rank(0).inits, 0);
}

TEST_F(NcclSessions, AsynchronousErrorOfOneRank_EndsAllAndNamesIt) {
  run([&](Communicator& communicator) {
    const int rank = communicator.rank();
    meet(communicator);
    gpus.rank(rank).stuck = true;
    DeviceBytes data{64};
    const auto work = communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum);
    if (rank == 2) gpus.rank(2).async_error = ncclRemoteError;
    EXPECT_EQ(blamed([&] { work->wait(patience); }), 2);
    EXPECT_EQ(blamed([&] { work->test(); }), 2) << "the same again at each later call";
    EXPECT_EQ(blamed([&] { communicator.barrier(); }), 2);
  });
  for (int i = 0; i < ranks; ++i) EXPECT_EQ(gpus.rank(i).aborts, 1);
}

TEST_F(NcclSessions, RankThatDoesNotCall_IsNamedInTheTimeout) {
  run([&](Communicator& communicator) {
    const int rank = communicator.rank();
    meet(communicator);
    if (rank == 1) {  // elsewhere until it hears of it
      while (!communicator.control().abort_notice()) std::this_thread::sleep_for(Timeout{1});
      EXPECT_EQ(communicator.control().abort_notice()->culprit, 1);
      return;
    }
    gpus.rank(rank).stuck = true;
    DeviceBytes data{64};
    const auto work = communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum);
    EXPECT_EQ(blamed([&] { work->wait(Timeout{2000}); }), 1);
  });
  for (int i = 0; i < ranks; ++i) {
    if (i != 1) {
      EXPECT_EQ(gpus.rank(i).aborts, 1);
    }
  }
}

TEST_F(NcclSessions, OperationNobodyWaitsFor_IsEndedByTheWatchdog) {
  run({.timeout = Timeout{300}}, [&](Communicator& communicator) {
    const int rank = communicator.rank();
    meet(communicator);
    gpus.rank(rank).stuck = true;
    DeviceBytes data{64};
    communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum);  // the Work is dropped
    while (!gpus.rank(rank).aborted) std::this_thread::sleep_for(Timeout{1});
    EXPECT_THROW(communicator.barrier(), TransportError);
  });
}

TEST_F(NcclSessions, Abort_EndsTheWaitsOfAllRanks) {
  run([&](Communicator& communicator) {
    const int rank = communicator.rank();
    meet(communicator);
    gpus.rank(rank).stuck = true;
    DeviceBytes data{64};
    const auto work = communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum);
    if (rank == 3) communicator.abort("no more disk");
    try {
      work->wait(patience);
      ADD_FAILURE() << "the wait was not ended";
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, 3);
      EXPECT_THAT(error.what(), HasSubstr("no more disk"));
    }
  });
}

TEST_F(NcclSessions, CallThatNcclRefuses_IsRaisedAndEndsAllRanks) {
  run([&](Communicator& communicator) {
    meet(communicator);
    DeviceBytes data{64};
    if (communicator.rank() == 0) gpus.rank(0).call_result = ncclInvalidUsage;
    if (communicator.rank() != 0) gpus.rank(communicator.rank()).stuck = true;
    EXPECT_EQ(blamed([&] {
                communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum)->wait(patience);
              }),
              0);
  });
}

TEST_F(NcclSessions, CapturedStream_RecordsNoEventAndIsDoneAtOnce) {
  run([&](Communicator& communicator) {
    auto& mine = gpus.rank(communicator.rank());
    mine.capturing = true;
    mine.stuck = true;
    const int events = mine.events_recorded;
    DeviceBytes data{64};
    EXPECT_TRUE(communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum)->test());
    EXPECT_EQ(mine.events_recorded, events);
    mine.stuck = false;
    mine.capturing = false;
  });
}

TEST_F(NcclSessions, WrongArguments_AreRefusedAndHarmNothing) {
  run([&](Communicator& communicator) {
    DeviceBytes a{64};
    DeviceBytes b{128};
    TensorView host = a.tensor();
    host.device = Device::host;
    EXPECT_THROW(communicator.allreduce(host, a.tensor(), ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(communicator.allreduce(a.tensor(), b.tensor(), ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(communicator.all_gather(a.view(), b.view()), InvalidArgument);
    EXPECT_THROW(communicator.broadcast(a.view(), ranks), InvalidArgument);
    EXPECT_THROW(communicator.send(a.view(), -1), InvalidArgument);
    communicator.barrier()->wait(patience);
  });
}

/// What a CUDA call fails with after a kernel of somebody's went wrong.
TEST_F(NcclSessions, ErrorOfTheGpu_IsRaisedAndEndsAllRanks) {
  run([&](Communicator& communicator) {
    const int rank = communicator.rank();
    meet(communicator);
    gpus.rank(rank).stuck = rank != 2;
    DeviceBytes data{64};
    const auto work = communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum);
    meet(communicator);
    if (rank == 2) gpus.rank(2).event_error = cudaErrorIllegalAddress;
    EXPECT_EQ(blamed([&] {
                work->wait(patience);
                communicator.allreduce(data.tensor(), data.tensor(), ReduceOp::sum)->wait(patience);
              }),
              2);
  });
}

/// Makes what one rank plans differently from the others, and expects all to hear of it.
class NcclMismatch : public NcclSessions {
 protected:
  void expect_mismatch(const std::function<void(Communicator&, bool other)>& make, const char* mine,
                       const char* theirs) {
    run([&](Communicator& communicator) {
      const int rank = communicator.rank();
      const int before = gpus.rank(rank).operations;
      try {
        make(communicator, rank == 2);
        ADD_FAILURE() << "rank " << rank << " did not see that plans differ";
      } catch (const MismatchError& error) {
        EXPECT_THAT(error.what(), HasSubstr(mine));
        EXPECT_THAT(error.what(), HasSubstr(theirs));
      }
      EXPECT_EQ(gpus.rank(rank).operations, before) << "data moved";
    });
  }

  static BucketLayout layout_of(std::int64_t n) {
    return make_buckets(std::vector<Parameter>{{"w", {n}}}, 1 << 20,
                        one_codec(compress::parse_codec("bf16")));
  }
};

TEST_F(NcclMismatch, Sizes_AreCaughtBeforeDataMoves) {
  expect_mismatch(
      [](Communicator& communicator, bool other) {
        const CudaEngine engine{communicator, layout_of(other ? 101 : 100)};
      },
      "100", "101");
}

TEST_F(NcclMismatch, Algorithms_AreCaughtBeforeDataMoves) {
  expect_mismatch(
      [](Communicator& communicator, bool other) {
        const CudaEngine engine{communicator,
                                layout_of(100),
                                {.algorithm = other ? Algorithm::summable : Algorithm::two_phase}};
      },
      "two_phase", "summable");
}

TEST_F(NcclMismatch, CoalescedBytes_AreCaughtBeforeDataMoves) {
  expect_mismatch(
      [](Communicator& communicator, bool other) {
        const CudaEngine engine{
            communicator, layout_of(100), {.coalesce_bytes = other ? 4096u : 1024u}};
      },
      "1024", "4096");
}

TEST_F(NcclMismatch, BoundariesOfAReduceScatter_AreCaughtBeforeDataMoves) {
  expect_mismatch(
      [](Communicator& communicator, bool other) {
        const compress::Plan plan{{compress::parse_codec("sign")},
                                  {{.parameter = "w", .length = 100}},
                                  {.ranks = ranks,
                                   .operation = compress::Operation::reduce_scatter,
                                   .boundaries = {0, 25, 50, other ? 77 : 75, 100}}};
        const CudaReduceScatter reduce_scatter{communicator, plan};
      },
      "75", "77");
}

TEST_F(NcclMismatch, BoundariesOfAnAllGather_AreCaughtBeforeDataMoves) {
  expect_mismatch(
      [](Communicator& communicator, bool other) {
        const CudaAllGather all_gather{communicator,
                                       compress::parse_codec("int8+noef"),
                                       {{.parameter = "w", .length = 100}},
                                       DType::f32,
                                       {0, 25, 50, other ? 77 : 75, 100}};
      },
      "25", "27");
}

TEST_F(NcclSessions, EngineOnAnotherTransport_IsRefused) {
  run_ranks(1, [](Communicator& communicator) {
    EXPECT_THROW((CudaEngine{communicator, BucketLayout{}}), InvalidArgument);
    EXPECT_THROW((CudaReduceScatter{communicator, compress::Plan{{}, {}, {}}}), InvalidArgument);
  });
}

class NcclSplit : public NcclSessions, public ::testing::WithParamInterface<bool> {};

TEST_P(NcclSplit, HalvesAndAnOutsider_GetTheirOwnCommunicators) {
  if (!GetParam()) nccl.comm_split = nullptr;
  run([&](Communicator& communicator) {
    const int rank = communicator.rank();
    const auto half = communicator.split(rank == 3 ? -1 : rank % 2, -rank);
    if (rank == 3) {
      EXPECT_EQ(half, nullptr);
    } else {
      ASSERT_NE(half, nullptr);
      EXPECT_EQ(half->size(), rank == 1 ? 1 : 2);
      EXPECT_EQ(half->rank(), rank == 0 ? 1 : 0);
      half->barrier()->wait(patience);
    }
    communicator.barrier()->wait(patience);
  });
  EXPECT_EQ(gpus.rank(0).inits, 2);
  EXPECT_EQ(gpus.rank(0).splits, GetParam() ? 2 : 0) << "once for each blocking communicator";
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutCommSplit, NcclSplit, ::testing::Bool());

int old_version(int* version) {
  *version = 21713;
  return 0;
}
int good_version(int* version) {
  *version = 22809;
  return 0;
}

TEST(NcclFunctions, TooOldVersion_IsRefusedNamingBoth) {
  try {
    resolve_nccl([](void*, const char*) { return reinterpret_cast<void*>(&old_version); }, nullptr);
    ADD_FAILURE() << "NCCL 2.17 was taken";
  } catch (const TransportError& error) {
    EXPECT_THAT(error.what(), HasSubstr("2.17.13"));
    EXPECT_THAT(error.what(), HasSubstr("2.18.0"));
    EXPECT_THAT(error.what(), HasSubstr("THINWIRE_NCCL"));
  }
}

TEST(NcclFunctions, RequiredFunctionMissing_IsNamed) {
  try {
    resolve_nccl(
        [](void*, const char* name) {
          return std::string_view{name} == "ncclSend" ? nullptr
                                                      : reinterpret_cast<void*>(&good_version);
        },
        nullptr);
    ADD_FAILURE() << "a library without ncclSend was taken";
  } catch (const TransportError& error) {
    EXPECT_THAT(error.what(), HasSubstr("ncclSend"));
  }
}

TEST(NcclFunctions, OptionalFunctionMissing_IsNull) {
  const auto table = resolve_nccl(
      [](void*, const char* name) {
        return std::string_view{name} == "ncclCommSplit" ? nullptr
                                                         : reinterpret_cast<void*>(&good_version);
      },
      nullptr);
  EXPECT_EQ(table.comm_split, nullptr);
  EXPECT_NE(table.get_last_error, nullptr);
}

TEST(NcclFunctions, LibraryMissing_SaysHowToNameIt) {
  try {
    load_nccl("/no/such/libnccl.so.2");
    GTEST_SKIP() << "a copy of NCCL is already in this process";
  } catch (const TransportError& error) {
    EXPECT_THAT(error.what(), HasSubstr("/no/such/libnccl.so.2"));
    EXPECT_THAT(error.what(), HasSubstr("THINWIRE_NCCL"));
  }
}

}  // namespace
}  // namespace thinwire::comm
