#include <utility>

#include "../exchange/algorithm.hpp"
#include "cuda/try.hpp"
#include "cuda_exchange.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// Every rank's selection goes to every rank, which adds them in rank order, as SparseExchange.
class CudaSparseExchange final : public CudaExchange {
 public:
  CudaSparseExchange(const CudaParts& parts, const compress::Plan& plan)
      : CudaExchange{parts, without_server(plan)},
        sent_{parts.exchange_memory, plan_.payload_bytes(Phase::reduce), "payload"},
        received_{parts.exchange_memory, plan_.payload_bytes(Phase::reduce) * ranks(), "payload"},
        of_shard_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"} {}

 private:
  bool has_second() const override { return false; }
  std::size_t first_bytes() const override { return sent_.size(); }

  // A topk plan has one chunk.
  void encode(int chunk, StreamView stream) override {
    coder_->encode(chunk, gradients_, *state_, call(stream), view(sent_));
    metrics_.payload_bytes += sent_.size();
    metrics_.wire_bytes += sent_.size() * (ranks() - 1);
  }

  void first(int, DeviceWire::Group& wire) override {
    wire.all_gather(sent_.data(), received_.data(), sent_.size());
  }

  void combine(int chunk, StreamView stream) override {
    const std::size_t slot = plan_.slot_bytes(chunk, Phase::reduce);
    for (std::size_t shard = 0; shard < ranks(); ++shard) {
      THINWIRE_CUDA_TRY(cudaMemcpy2DAsync(of_shard_.data(), slot, received_.data() + shard * slot,
                                          sent_.size(), slot, ranks(), cudaMemcpyDeviceToDevice,
                                          stream.handle()));
      coder_->reduce(chunk, view(of_shard_), static_cast<int>(shard), call(stream), gradients_, 0);
    }
  }

  void decode(int, StreamView) override {}

  static ByteView view(const Buffer& buffer) {
    return {buffer.data(), buffer.size(), Device::cuda};
  }

  Buffer sent_, received_, of_shard_;
};

}  // namespace

std::unique_ptr<CudaExchange> make_cuda_sparse_exchange(const CudaParts& parts,
                                                        compress::Plan plan) {
  return std::make_unique<CudaSparseExchange>(parts, plan);
}

}  // namespace thinwire::comm
