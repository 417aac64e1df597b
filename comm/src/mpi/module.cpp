#include <string>

#include "baseline.hpp"
#include "mpi_module.hpp"
#include "point_to_point_communicator.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"
#include "thinwire/core/version.hpp"
#include "transport.hpp"

namespace thinwire::comm {
namespace {

std::unique_ptr<Communicator> make_communicator(const MpiOptions& options) {
  constexpr std::size_t largest = std::size_t{1} << 30;  // MPI 3 counts in int
  THINWIRE_EXPECTS(
      options.chunk_bytes >= sizeof(float) && options.chunk_bytes <= largest, InvalidArgument,
      "MpiOptions: chunk_bytes is " + std::to_string(options.chunk_bytes) + "; it must be from " +
          std::to_string(sizeof(float)) + " to " + std::to_string(largest));
  const auto timeout = config().timeout;
  MpiRuntime::get(options.one_thread ? MPI_THREAD_FUNNELED : MPI_THREAD_MULTIPLE);
  auto communicator = std::make_unique<PointToPointCommunicator>(
      make_mpi_endpoint(MPI_COMM_WORLD, options.chunk_bytes, timeout));
  set_log_rank(communicator->rank());
  require_equal(communicator->control(), "make_mpi_communicator",
                {{"version of thinwire", THINWIRE_VERSION},
                 {"chunk_bytes", std::to_string(options.chunk_bytes)}},
                timeout);
  return communicator;
}

}  // namespace
}  // namespace thinwire::comm

extern "C" const thinwire::comm::MpiModule* thinwire_mpi_module() {
  static constexpr thinwire::comm::MpiModule module{
      thinwire::comm::mpi_module_abi, THINWIRE_VERSION, &thinwire::comm::make_communicator,
      &thinwire::comm::make_mpi_baseline_here};
  return &module;
}
