#include <mpi.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "ranks.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm::testing {
namespace {

std::unique_ptr<Communicator> world;

/// On ranks other than 0: failures only, with the rank before them.
class FailurePrinter final : public ::testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_{rank} {}

  void OnTestStart(const ::testing::TestInfo& info) override {
    test_ = std::string{info.test_suite_name()} + "." + info.name();
  }

  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* file = result.file_name();
    std::fprintf(stderr, "[rank %d] %s failed at %s:%d\n%s\n", rank_, test_.c_str(),
                 file != nullptr ? file : "?", result.line_number(), result.message());
  }

 private:
  int rank_;
  std::string test_;
};

MpiOptions parse_options(int argc, char** argv) {
  constexpr std::string_view flag = "--chunk_bytes=";
  MpiOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument{argv[i]};
    if (argument.starts_with(flag)) {
      options.chunk_bytes = std::stoul(std::string{argument.substr(flag.size())});
    }
  }
  return options;
}

}  // namespace

std::vector<int> rank_counts() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return {size};
}

// A child for each test, so that one which aborts ends its own communicator only.
void on_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  if (ranks > world->size()) GTEST_SKIP() << "runs on " << ranks << " ranks";
  const auto child = world->split(world->rank() < ranks ? 0 : -1, 0);
  if (child) body(*child);
}

int run_tests(int& argc, char** argv) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ::testing::InitGoogleTest(&argc, argv);
  if (rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter{rank});
  }
  world = make_mpi_communicator(parse_options(argc, argv));
  const int status = RUN_ALL_TESTS();
  world.reset();
  return status;
}

}  // namespace thinwire::comm::testing

int main(int argc, char** argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  const int status = thinwire::comm::testing::run_tests(argc, argv);
  MPI_Finalize();
  return status;  // mpirun fails if any rank does
}
