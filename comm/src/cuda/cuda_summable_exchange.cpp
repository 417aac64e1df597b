#include <utility>

#include "../exchange/algorithm.hpp"
#include "../exchange/bucket_exchange.hpp"
#include "cuda/agreement.hpp"
#include "cuda_exchange.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// A bucket of bf16 whose payload the transport itself adds up, as SummableExchange on the host.
class CudaSummableExchange final : public CudaExchange {
 public:
  CudaSummableExchange(const CudaParts& parts, const compress::Plan& plan)
      : CudaExchange{parts, as_one_shard(plan)},
        mine_{parts.exchange_memory, plan_.payload_bytes(Phase::reduce), "payload"},
        mean_{parts.exchange_memory, plan_.payload_bytes(Phase::reduce), "payload"},
        words_{parts.exchange_memory, cuda::agreement_words * sizeof(std::uint64_t), "payload"},
        plan_id_{plan.id()},
        header_{compress::make_header(plan_, 0, 0, Phase::gather, 0, 0, 0)},
        errors_{parts.errors.device()} {}

 private:
  // One chunk: the transport cuts the payload by itself.
  bool has_second() const override { return false; }
  std::size_t first_bytes() const override { return mine_.size(); }

  void encode(int chunk, StreamView stream) override {
    coder_->encode(chunk, gradients_, *state_, call(stream), view(mine_));
    cuda::write_agreement(words_.as<std::uint64_t>(), mine_.data(), plan_id_, stream);
    const std::size_t bytes = mine_.size() - compress::header_bytes;
    metrics_.payload_bytes += bytes;
    metrics_.wire_bytes += ring_bytes(bytes, ranks());
  }

  void first(int, DeviceWire::Group& wire) override {
    wire.allreduce(payload_of(mine_), payload_of(mean_), ReduceOp::avg);
    wire.allreduce_max(words_.as<std::uint64_t>(), cuda::agreement_words);
  }

  void combine(int chunk, StreamView stream) override {
    cuda::seal_average(mean_.data(), header_, mine_.data(), plan_id_, words_.as<std::uint64_t>(),
                       errors_, stream);
    coder_->decode(chunk, view(mean_), call(stream), gradients_);
  }

  void decode(int, StreamView) override {}

  static ByteView view(const Buffer& buffer) {
    return {buffer.data(), buffer.size(), Device::cuda};
  }

  static TensorView payload_of(const Buffer& slot) {
    const std::size_t bytes = slot.size() - compress::header_bytes;
    return {slot.data() + compress::header_bytes, static_cast<std::int64_t>(bytes / 2), DType::bf16,
            Device::cuda};
  }

  Buffer mine_, mean_, words_;
  std::uint64_t plan_id_;  ///< of the plan that was compared between ranks
  compress::SlotHeader header_;
  ErrorRing::DeviceHandle errors_;
};

}  // namespace

std::unique_ptr<CudaExchange> make_cuda_summable_exchange(const CudaParts& parts,
                                                          compress::Plan plan) {
  return std::make_unique<CudaSummableExchange>(parts, plan);
}

}  // namespace thinwire::comm
