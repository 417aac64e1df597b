#pragma once

#include <cstdint>
#include <string>

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

/// One line of the table. Times are the slowest rank's mean over the timed calls.
struct Row {
  std::string codec;
  std::string transport;
  int ranks = 1;
  std::size_t bytes = 0;  ///< uncompressed, of one rank's gradients
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  double time_us = 0;
  std::uint64_t wire_bytes = 0;  ///< sent by rank 0 in one call
  std::int64_t wrong = -1;       ///< elements with other bits than the reference; -1: not checked

  double algbw_gbs() const { return static_cast<double>(bytes) / time_us * 1e-3; }
  double busbw_gbs() const { return algbw_gbs() * 2 * (ranks - 1) / ranks; }
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
