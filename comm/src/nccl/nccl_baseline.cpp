#include "thinwire/comm/nccl_baseline.hpp"

#include <cstring>

#include "nccl_functions.hpp"
#include "nccl_types.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/core/config.hpp"
#include "transfers.hpp"

namespace thinwire::comm {
namespace {

void check(ncclResult_t result) {
  THINWIRE_EXPECTS(result == ncclSuccess, TransportError,
                   nccl_functions().get_error_string(result));
}

class Baseline final : public NcclBaseline {
 public:
  explicit Baseline(Communicator& bootstrap) : size_{bootstrap.size()} {
    const auto text = broadcast_from_root(
        bootstrap.control(), bootstrap.rank() == 0 ? nccl_unique_id() : "", config().timeout);
    ncclUniqueId id{};
    THINWIRE_EXPECTS(text.size() == sizeof id, FormatError, "no unique id came from rank 0");
    std::memcpy(&id, text.data(), sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    check(nccl_.comm_init_rank_config(&communicator_, size_, id, bootstrap.rank(), &config));
  }
  ~Baseline() override { nccl_.comm_destroy(communicator_); }

  void allreduce(TensorView data, StreamView stream) override {
    check(nccl_.all_reduce(data.data, data.data, static_cast<std::size_t>(data.numel),
                           nccl_type(data.dtype), ncclAvg, communicator_, stream.handle()));
  }

  void all_to_all(ConstByteView in, ByteView out, StreamView stream) override {
    check(nccl_.group_start());
    check(enqueue_all_to_all(nccl_, communicator_, size_, in.data, out.data,
                             in.size / static_cast<std::size_t>(size_), stream.handle()));
    check(nccl_.group_end());
  }

  void all_gather(ConstByteView in, ByteView out, StreamView stream) override {
    check(nccl_.all_gather(in.data, out.data, in.size, ncclUint8, communicator_, stream.handle()));
  }

 private:
  const NcclFunctions& nccl_ = nccl_functions();
  int size_;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace

std::unique_ptr<NcclBaseline> make_nccl_baseline(Communicator& bootstrap) {
  return std::make_unique<Baseline>(bootstrap);
}

}  // namespace thinwire::comm
