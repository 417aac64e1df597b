// What a build without NCCL answers.
#include "thinwire/comm/nccl.hpp"
#include "thinwire/comm/staged.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

constexpr const char* reason =
    "this build of thinwire has no NCCL; build it with CUDA and nccl.h present "
    "(-DTHINWIRE_WITH_CUDA=ON -DTHINWIRE_WITH_NCCL=ON)";

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator&, const NcclOptions&) {
  throw TransportError{reason};
}

std::unique_ptr<Communicator> make_nccl_communicator(const TcpRendezvous&, const NcclOptions&) {
  throw TransportError{reason};
}

std::unique_ptr<Communicator> make_staged_communicator(Communicator&, const StagedOptions&) {
  throw TransportError{reason};
}

std::string nccl_unique_id() { throw TransportError{reason}; }

bool nccl_available(std::string* why) {
  if (why != nullptr) *why = reason;
  return false;
}

}  // namespace thinwire::comm
