#include <cstring>

#include "algorithm.hpp"
#include "bucket_exchange.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// Every rank's selection goes to every rank, which adds them in rank order. One exchange of
/// (N - 1) N slots and no server step, so no server residual: output = mean of what was sent.
class SparseExchange final : public BucketExchange {
 public:
  SparseExchange(const ExchangeParts& parts, const compress::Plan& plan)
      : BucketExchange{parts, without_server(plan), parts.lanes.reduce->rank()},
        coder_{compress::make_host_coder(plan_, parts.pool)},
        sent_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"},
        received_{parts.memory, plan_.payload_bytes(Phase::reduce) * ranks(), "payload"},
        of_shard_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"} {}

 private:
  // A topk plan has one chunk.
  void do_encode(int chunk) override {
    coder_->encode(chunk, gradients_, state_, call_, {sent_.data(), sent_.size()});
  }

  WorkHandle post_encoded(int) override {
    metrics_.payload_bytes += sent_.size();
    metrics_.wire_bytes += sent_.size() * (ranks() - 1);
    return lanes_.reduce->all_gather({sent_.data(), sent_.size()},
                                     {received_.data(), received_.size()});
  }

  WorkHandle do_combine(int) override { return nullptr; }

  void do_decode(int chunk) override {
    const std::size_t slot = plan_.slot_bytes(chunk, Phase::reduce);
    for (std::size_t shard = 0; shard < ranks(); ++shard) {
      for (std::size_t from = 0; from < ranks(); ++from) {
        std::memcpy(of_shard_.data() + from * slot,
                    received_.data() + from * sent_.size() + shard * slot, slot);
      }
      verdict_.flags |= coder_
                            ->reduce(chunk, {of_shard_.data(), of_shard_.size()},
                                     static_cast<int>(shard), call_, gradients_, 0)
                            .flags;
    }
  }

  std::span<const std::byte> encoded(int) const override { return {sent_.data(), sent_.size()}; }

  std::unique_ptr<compress::Coder> coder_;
  Buffer sent_, received_, of_shard_;
};

}  // namespace

std::unique_ptr<BucketExchange> make_sparse_exchange(const ExchangeParts& parts,
                                                     compress::Plan plan) {
  return std::make_unique<SparseExchange>(parts, plan);
}

}  // namespace thinwire::comm
