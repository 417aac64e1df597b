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
  constexpr std::string_view chunk_bytes = "--chunk_bytes=";
  MpiOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument{argv[i]};
    if (argument.starts_with(chunk_bytes)) {
      options.chunk_bytes = std::stoul(std::string{argument.substr(chunk_bytes.size())});
    }
    if (argument == "--one_thread") options.one_thread = true;
  }
  return options;
}

}  // namespace

std::vector<int> rank_counts() { return {world->size()}; }

// A child for each test, so that one which aborts ends its own communicator only.
void on_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  if (ranks > world->size()) GTEST_SKIP() << "runs on " << ranks << " ranks";
  const auto child = world->split(world->rank() < ranks ? 0 : -1, 0);
  if (child) body(*child);
}

namespace {

int run_tests(int argc, char** argv, const MpiOptions& options) {
  world = make_mpi_communicator(options);
  ::testing::InitGoogleTest(&argc, argv);
  if (world->rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter{world->rank()});
  }
  const int status = RUN_ALL_TESTS();
  world.reset();
  return status;
}

}  // namespace
}  // namespace thinwire::comm::testing

// mpirun fails if any rank does. MPI is ours here, because thinwire does not finalise it after an
// abort, and some tests abort; with --one_thread it is thinwire's.
int main(int argc, char** argv) {
  using namespace thinwire::comm::testing;
  const auto options = parse_options(argc, argv);
  if (options.one_thread) return run_tests(argc, argv, options);
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  const int status = run_tests(argc, argv, options);
  MPI_Finalize();
  return status;
}
