#include <utility>

#include "../host_group.hpp"
#include "../tcp/tcp_group.hpp"
#include "nccl_communicator.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// The host side of NCCL where another communicator gives it.
class CommunicatorGroup final : public HostGroup {
 public:
  explicit CommunicatorGroup(Communicator& communicator) : communicator_{&communicator} {}
  explicit CommunicatorGroup(std::unique_ptr<Communicator> communicator)
      : owned_{std::move(communicator)}, communicator_{owned_.get()} {}

  ControlPlane& control() override { return communicator_->control(); }

  std::unique_ptr<HostGroup> split(int color, int key) override {
    auto child = communicator_->split(color, key);
    if (!child) return nullptr;
    return std::make_unique<CommunicatorGroup>(std::move(child));
  }

 private:
  std::unique_ptr<Communicator> owned_;
  Communicator* communicator_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap,
                                                     const NcclOptions& options) {
  return make_nccl_communicator(bootstrap, options, nccl_functions(), cuda_functions());
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap,
                                                     const NcclOptions& options,
                                                     const NcclFunctions& nccl,
                                                     const CudaFunctions& cuda) {
  return std::make_unique<NcclCommunicator>(
      NcclSession::start(nccl, cuda, std::make_unique<CommunicatorGroup>(bootstrap), options));
}

std::unique_ptr<Communicator> make_nccl_communicator(const TcpRendezvous& rendezvous,
                                                     const NcclOptions& options) {
  const auto& nccl = nccl_functions();  // before the others are kept waiting
  return std::make_unique<NcclCommunicator>(
      NcclSession::start(nccl, cuda_functions(), std::make_unique<TcpGroup>(rendezvous), options));
}

std::string nccl_unique_id() {
  const auto& nccl = nccl_functions();
  ncclUniqueId id{};
  const ncclResult_t result = nccl.get_unique_id(&id);
  THINWIRE_EXPECTS(result == ncclSuccess, TransportError, nccl.get_error_string(result));
  return {id.internal, sizeof id.internal};
}

bool nccl_available(std::string* why) {
  try {
    nccl_functions();
    int device = 0;
    const cudaError_t code = cuda_functions().get_device(&device);
    THINWIRE_EXPECTS(code == cudaSuccess, TransportError, cuda_functions().error_text(code));
    return true;
  } catch (const std::exception& error) {
    if (why != nullptr) *why = error.what();
    return false;
  }
}

}  // namespace thinwire::comm
