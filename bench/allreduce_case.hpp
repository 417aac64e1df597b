#pragma once

#include <cstdint>

#include "allreduce_table.hpp"
#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/comm/mpi_baseline.hpp"
#include "thinwire/compress/codec_spec.hpp"

namespace thinwire::bench {

struct Repeat {
  int warmup;
  int iterations;
  bool check;
};

/// How thinwire is set up.
struct Settings {
  comm::Algorithm algorithm = comm::Algorithm::two_phase;
  int chunks = 1;
  int threads = 0;  ///< codec threads a rank; 0: by configuration
};

/// Collective: thinwire's allreduce with this codec. Checked against the scalar two-phase
/// reference, a plain one against the known exact mean. Other algorithms are not checked.
Row measure_codec(comm::Communicator& communicator, const compress::CodecSpec& codec,
                  std::int64_t elements, DType dtype, const Settings& settings,
                  const Repeat& repeat);

/// Collective: MPI's own MPI_Allreduce of fp32; codec "mpi" or "mpi_ring".
Row measure_peer(comm::Communicator& communicator, comm::MpiAllreduce algorithm,
                 std::int64_t elements, const Repeat& repeat);

}  // namespace thinwire::bench
