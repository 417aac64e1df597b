#include <gmock/gmock.h>

#include <fstream>
#include <string>

#include "ranks.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"
#include "values.hpp"

namespace thinwire::comm::testing {
namespace {

class MpiTransport : public RanksTest {};

TEST_P(MpiTransport, Communicator_TellsWhatItIs) {
  on_all([](Communicator& comm) {
    EXPECT_TRUE(mpi_available());
    EXPECT_EQ(comm.transport(), "mpi");
    EXPECT_EQ(comm.device(), Device::host);
    EXPECT_EQ(comm.local_rank(), comm.rank()) << "the tests run on one host";
    EXPECT_EQ(comm.local_size(), comm.size());
  });
}

TEST_P(MpiTransport, ChunkBytesOutOfRange_IsRefused) {
  EXPECT_THROW(make_mpi_communicator({.chunk_bytes = 0}), InvalidArgument);
  EXPECT_THROW(make_mpi_communicator({.chunk_bytes = std::size_t{1} << 31}), InvalidArgument);
}

TEST_P(MpiTransport, ChunkBytesThatDiffer_AreNamedOnEveryRank) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const auto error = error_of<MismatchError>(
        [&] { make_mpi_communicator({.chunk_bytes = comm.rank() == 0 ? 1000u : 2000u}); });
    EXPECT_EQ(error.field, "chunk_bytes");
  });
}

/// With chunks of 1000 bytes each pair cuts into sequences that are equal for some chunks: the
/// difference must be seen all the same, and at the size where it stands.
TEST_P(MpiTransport, SizesAroundTheChunkLimit_AreToldApart) {
  struct Case {
    std::size_t sent, expected;
  };
  for (const auto [sent, expected] :
       {Case{1000, 999}, Case{999, 1000}, Case{2000, 1000}, Case{1000, 2000}, Case{2500, 1500},
        Case{1500, 2500}, Case{0, 1000}, Case{1000, 0}, Case{3000, 3001}, Case{3001, 3000}}) {
    on_all([&](Communicator& comm) {
      if (comm.size() < 2 || comm.rank() > 1) return;
      std::vector<std::byte> data(comm.rank() == 0 ? sent : expected);
      if (comm.rank() == 1) {
        const auto error =
            error_of<MismatchError>([&] { comm.recv(bytes_of(data), 0)->wait(patience); });
        EXPECT_EQ(error.mine, std::to_string(expected) + " bytes");
        EXPECT_NE(error.theirs, error.mine);
      } else {
        try {  // small messages may have left before the news arrive
          comm.send(bytes_of(data), 1)->wait(patience);
          for (;;) comm.recv(bytes_of(data), 1)->wait(patience);
        } catch (const AbortedError& error) {
          EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(expected) + " bytes"));
        }
      }
    });
  }
}

std::size_t available_memory() {
  std::ifstream info{"/proc/meminfo"};
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("MemAvailable:")) return std::stoul(line.substr(13)) * 1024;
  }
  return 0;
}

// Run by the ctest comm_mpi_slow_2to31; two ranks of 2 GiB each.
TEST_P(MpiTransport, DISABLED_MoreThan2To31Bytes_ArriveWhole) {
  constexpr std::size_t bytes = (std::size_t{1} << 31) + 1001;
  if (available_memory() < 3 * bytes) GTEST_SKIP() << "needs 6 GiB of memory";
  on_all([](Communicator& comm) {
    const auto mark = [&](std::size_t i) { return static_cast<std::byte>(i / 4093); };
    std::vector<std::byte> data(bytes);
    if (comm.rank() == 0) {
      for (std::size_t i = 0; i < bytes; i += 4093) data[i] = mark(i);
      data.back() = std::byte{77};
    }
    comm.broadcast(bytes_of(data), 0)->wait(3 * patience);
    std::size_t wrong = data.back() != std::byte{77};
    for (std::size_t i = 0; i + 1 < bytes; i += 4093) wrong += data[i] != mark(i);
    EXPECT_EQ(wrong, 0u);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, MpiTransport, ::testing::ValuesIn(rank_counts()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace thinwire::comm::testing
