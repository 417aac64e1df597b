#include "ranks.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm::testing {

std::vector<int> rank_counts() { return {1, 2, 3, 4, 8}; }

void on_ranks(int ranks, const std::function<void(Communicator&)>& body) { run_ranks(ranks, body); }

}  // namespace thinwire::comm::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
