#include <cstdio>
#include <vector>

#include "thinwire/comm/engine.hpp"
#include "thinwire/comm/transports.hpp"

namespace comm = thinwire::comm;

int main() {
  auto ranks = comm::make_mpi_communicator();
  std::vector<float> gradients(1'000'000, static_cast<float>(ranks->rank()));

  // What is reduced together, and how it travels: one bit an element, errors fed back.
  const std::vector<comm::Parameter> parameters{{"weights", {1000, 1000}}};
  const auto sign = comm::one_codec(thinwire::compress::parse_codec("sign"));
  comm::Engine engine{*ranks, comm::make_buckets(parameters, 25 << 20, sign)};

  engine.submit(0, thinwire::view_of(std::span<float>{gradients}));
  engine.end_step();  // gradients are now the mean over all ranks

  const auto cost = engine.metrics();
  std::printf("rank %d of %d: mean %.2f, sent %.0f KB instead of %.0f KB\n", ranks->rank(),
              ranks->size(), gradients[0], cost.wire_bytes / 1e3, cost.plain_wire_bytes / 1e3);
}
