#include <atomic>
#include <cstdio>
#include <numeric>
#include <vector>

#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/version.hpp"

// Four ranks as threads average a gradient through the sign codec; all must end with the same bits.
int main() {
  using namespace thinwire;
  const std::vector<comm::Parameter> parameters{{"weight", {100, 30}}};
  const auto layout =
      comm::make_buckets(parameters, 1 << 20, comm::one_codec(compress::parse_codec("sign")));
  std::atomic<int> equal{0};
  std::vector<float> first(3000);
  comm::run_ranks(4, [&](comm::Communicator& communicator) {
    comm::Engine engine{communicator, layout};
    std::vector<float> gradients(3000);
    std::iota(gradients.begin(), gradients.end(), static_cast<float>(communicator.rank()) - 1500);
    engine.submit(0, view_of(gradients));
    engine.end_step();
    if (communicator.rank() == 0) first = gradients;
    communicator.barrier()->wait();
    if (gradients == first) ++equal;
  });
  std::printf("thinwire %s: %d of 4 ranks agree\n", THINWIRE_VERSION, equal.load());
  return equal == 4 ? 0 : 1;
}
