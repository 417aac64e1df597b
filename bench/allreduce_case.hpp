#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "allreduce_table.hpp"
#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/codec_spec.hpp"

namespace thinwire::bench {

/// How thinwire is set up, and how its calls are timed and checked.
struct Settings {
  DType dtype = DType::f32;
  comm::Algorithm algorithm = comm::Algorithm::two_phase;
  int chunks = 0;   ///< of a bucket; 0: 4 of a long one on the host between machines, else 1
  int threads = 0;  ///< codec threads a rank; 0: by configuration
  int warmup = 2;
  int iterations = 10;
  std::size_t check_up_to = 0;  ///< bytes: larger ones are not compared with the reference

  bool checks(std::size_t bytes) const { return bytes <= check_up_to; }
  /// The scalar reference knows the two-phase way and the plain one.
  bool checks(const compress::Plan& plan, std::size_t bytes) const {
    return checks(bytes) && (plan.plain() || algorithm == comm::Algorithm::two_phase);
  }
};

/// The rows of the table, on one kind of device. All calls are collective.
class AllreduceCases {
 public:
  virtual ~AllreduceCases() = default;
  /// The allreduce of the library under thinwire, of so many elements.
  virtual std::vector<Row> peers(std::int64_t elements) = 0;
  /// thinwire's. Checked against the scalar two-phase reference, a plain one against the known
  /// mean.
  virtual Row codec(const compress::CodecSpec& codec, std::int64_t elements) = 0;
  /// The two exchanges of a compressed allreduce by themselves; `bytes` are all ranks' parts.
  virtual std::vector<Row> exchanges(std::size_t bytes) = 0;
};

/// In host memory, over any communicator of the host; peers over MPI and for fp32 alone.
std::unique_ptr<AllreduceCases> make_host_cases(comm::Communicator& communicator,
                                                const Settings& settings);

/// On GPUs, over a communicator of make_nccl_communicator; peers are ncclAllReduce. This and the
/// next are defined in builds with NCCL.
std::unique_ptr<AllreduceCases> make_gpu_cases(comm::Communicator& communicator,
                                               const Settings& settings);

/// One GPU a process: the local rank's, where more than one is visible.
void choose_gpu();

}  // namespace thinwire::bench
