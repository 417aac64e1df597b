#pragma once

#include <cstdint>
#include <memory>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// MPI's own algorithms that benchmarks measure against.
enum class MpiAllreduce : std::uint8_t {
  picked = 0,  ///< what MPI_Allreduce chooses by itself
  ring = 1     ///< Open MPI's ring (coll_tuned_allreduce_algorithm 4)
};

/// A blocking MPI_Allreduce of fp32 sums, untouched by thinwire: the peer of bench_allreduce.
class MpiBaseline {
 public:
  virtual ~MpiBaseline() = default;
  /// Collective: data[i] becomes the sum over ranks. Blocks inside MPI, without a time-out.
  virtual void allreduce(float* data, std::int64_t elements) = 0;
};

/// Collective over MPI_COMM_WORLD, after make_mpi_communicator. Throws TransportError when this MPI
/// has no such algorithm or cannot be told to use it: Open MPI's ring needs
/// OMPI_MCA_coll_tuned_use_dynamic_rules=1 in the environment before MPI starts.
std::unique_ptr<MpiBaseline> make_mpi_baseline(MpiAllreduce algorithm);

}  // namespace thinwire::comm
