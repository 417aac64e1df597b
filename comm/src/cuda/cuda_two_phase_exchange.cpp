#include <utility>

#include "cuda_exchange.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// Encode N shards, all-to-all, the owner's step, all-gather, decode.
class CudaTwoPhaseExchange final : public CudaExchange {
 public:
  CudaTwoPhaseExchange(const CudaParts& parts, compress::Plan plan)
      : CudaExchange{parts, std::move(plan)},
        to_owners_{parts.exchange_memory, plan_.payload_bytes(Phase::reduce), "payload"},
        from_workers_{parts.exchange_memory, plan_.payload_bytes(Phase::reduce), "payload"},
        my_slots_{parts.exchange_memory, plan_.payload_bytes(Phase::gather) / ranks(), "payload"},
        from_owners_{parts.exchange_memory, plan_.payload_bytes(Phase::gather), "payload"} {}

 private:
  std::size_t first_bytes() const override { return to_owners_.size(); }

  void encode(int chunk, StreamView stream) override {
    coder_->encode(chunk, gradients_, *state_, call(stream),
                   slots(to_owners_, chunk, Phase::reduce));
    metrics_.payload_bytes += slot_bytes(chunk, Phase::reduce) * ranks();
    metrics_.wire_bytes +=
        (slot_bytes(chunk, Phase::reduce) + slot_bytes(chunk, Phase::gather)) * (ranks() - 1);
  }

  void first(int chunk, DeviceWire::Group& wire) override {
    wire.all_to_all(slots(to_owners_, chunk, Phase::reduce).data,
                    slots(from_workers_, chunk, Phase::reduce).data,
                    slot_bytes(chunk, Phase::reduce));
  }

  void combine(int chunk, StreamView stream) override {
    coder_->reduce_encode(chunk, slots(from_workers_, chunk, Phase::reduce), *state_, call(stream),
                          my_slot(chunk));
  }

  void second(int chunk, DeviceWire::Group& wire) override {
    const ByteView mine = my_slot(chunk);
    wire.all_gather(mine.data, slots(from_owners_, chunk, Phase::gather).data, mine.size);
  }

  void decode(int chunk, StreamView stream) override {
    coder_->decode(chunk, slots(from_owners_, chunk, Phase::gather), call(stream), gradients_);
  }

  std::size_t slot_bytes(int chunk, Phase phase) const { return plan_.slot_bytes(chunk, phase); }

  ByteView slots(const Buffer& buffer, int chunk, Phase phase) const {
    return {buffer.data() + plan_.chunk_offset(chunk, phase), slot_bytes(chunk, phase) * ranks(),
            Device::cuda};
  }

  ByteView my_slot(int chunk) const {
    return {my_slots_.data() + plan_.chunk_offset(chunk, Phase::gather) / ranks(),
            slot_bytes(chunk, Phase::gather), Device::cuda};
  }

  Buffer to_owners_, from_workers_, my_slots_, from_owners_;
};

}  // namespace

std::unique_ptr<CudaExchange> make_cuda_two_phase_exchange(const CudaParts& parts,
                                                           compress::Plan plan) {
  return std::make_unique<CudaTwoPhaseExchange>(parts, std::move(plan));
}

}  // namespace thinwire::comm
