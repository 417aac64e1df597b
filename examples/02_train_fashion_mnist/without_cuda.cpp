// What a build without CUDA and NCCL answers.
#include "learner.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

constexpr const char* reason =
    "this build has no GPU support; build it with CUDA, cuBLAS and nccl.h present";

}  // namespace

std::unique_ptr<Learner> make_cuda_learner(thinwire::comm::Communicator&, const TrainOptions&) {
  throw thinwire::InvalidArgument{reason};
}

void choose_gpu(int) { throw thinwire::InvalidArgument{reason}; }

}  // namespace fashion
