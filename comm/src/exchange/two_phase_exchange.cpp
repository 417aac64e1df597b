#include <utility>

#include "bucket_exchange.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// Encode N shards, all-to-all, the owner's step, all-gather, decode. Sends 2 (N - 1) slots.
class TwoPhaseExchange final : public BucketExchange {
 public:
  TwoPhaseExchange(const ExchangeParts& parts, compress::Plan plan)
      : BucketExchange{parts, std::move(plan), parts.lanes.reduce->rank()},
        coder_{compress::make_host_coder(plan_, parts.pool)},
        to_owners_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"},
        from_workers_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"},
        to_workers_{parts.memory, plan_.payload_bytes(Phase::gather) / ranks(), "payload"},
        from_owners_{parts.memory, plan_.payload_bytes(Phase::gather), "payload"} {}

 private:
  void do_encode(int chunk) override {
    const std::size_t slots = plan_.slot_bytes(chunk, Phase::reduce) * ranks();
    std::byte* out = to_owners_.data() + plan_.chunk_offset(chunk, Phase::reduce);
    coder_->encode(chunk, gradients_, state_, call_, {out, slots});
  }

  WorkHandle post_encoded(int chunk) override {
    const std::size_t slot = plan_.slot_bytes(chunk, Phase::reduce);
    const std::size_t offset = plan_.chunk_offset(chunk, Phase::reduce);
    metrics_.payload_bytes += slot * ranks();
    metrics_.wire_bytes += slot * (ranks() - 1);
    return lanes_.reduce->all_to_all({to_owners_.data() + offset, slot * ranks()},
                                     {from_workers_.data() + offset, slot * ranks()});
  }

  WorkHandle do_combine(int chunk) override {
    const std::size_t in = plan_.slot_bytes(chunk, Phase::reduce);
    const std::size_t out = plan_.slot_bytes(chunk, Phase::gather);
    const std::size_t offset = plan_.chunk_offset(chunk, Phase::gather);
    std::byte* mine = to_workers_.data() + offset / ranks();
    coder_->reduce_encode(
        chunk, {from_workers_.data() + plan_.chunk_offset(chunk, Phase::reduce), in * ranks()},
        state_, call_, {mine, out});
    metrics_.wire_bytes += out * (ranks() - 1);
    return lanes_.gather->all_gather({mine, out}, {from_owners_.data() + offset, out * ranks()});
  }

  void do_decode(int chunk) override {
    const std::size_t slot = plan_.slot_bytes(chunk, Phase::gather);
    const std::byte* slots = from_owners_.data() + plan_.chunk_offset(chunk, Phase::gather);
    verdict_.flags |= coder_->decode(chunk, {slots, slot * ranks()}, call_, gradients_).flags;
  }

  std::span<const std::byte> encoded(int chunk) const override {
    return {to_owners_.data() + plan_.chunk_offset(chunk, Phase::reduce),
            plan_.slot_bytes(chunk, Phase::reduce) * ranks()};
  }

  std::unique_ptr<compress::Coder> coder_;
  Buffer to_owners_, from_workers_, to_workers_, from_owners_;
};

}  // namespace

std::unique_ptr<BucketExchange> make_two_phase_exchange(const ExchangeParts& parts,
                                                        compress::Plan plan) {
  return std::make_unique<TwoPhaseExchange>(parts, std::move(plan));
}

}  // namespace thinwire::comm
