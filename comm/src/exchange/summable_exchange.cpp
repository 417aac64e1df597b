#include <fmt/format.h>

#include <array>
#include <cstring>
#include <utility>

#include "algorithm.hpp"
#include "bucket_exchange.hpp"
#include "joined_work.hpp"
#include "thinwire/compress/header.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// A bucket of bf16 whose payload the transport itself adds up: one exchange of ring size, no
/// server step. An allreduce would add up a header, so agreement is proved beside it: the maximum
/// over ranks of (d, ~d), d the digest of plan and call, is (d, ~d) only if every rank gave the
/// same d. Two more words carry the flags.
class SummableExchange final : public BucketExchange {
 public:
  SummableExchange(const ExchangeParts& parts, const compress::Plan& plan)
      : BucketExchange{parts, as_one_shard(plan), 0},
        coder_{compress::make_host_coder(plan_, parts.pool)},
        mine_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"},
        mean_{parts.memory, plan_.payload_bytes(Phase::reduce), "payload"},
        plan_id_{plan.id()} {}

 private:
  // One chunk: the transport cuts the payload by itself.
  void do_encode(int chunk) override {
    coder_->encode(chunk, gradients_, state_, call_, {mine_.data(), mine_.size()});
  }

  WorkHandle post_encoded(int) override {
    const std::size_t bytes = mine_.size() - compress::header_bytes;
    metrics_.payload_bytes += bytes;
    metrics_.wire_bytes += ring_bytes(bytes, ranks());

    compress::SlotHeader header;
    std::memcpy(&header, mine_.data(), sizeof header);
    digest_ = compress::mix64(compress::mix64(plan_id_) + call_.sequence);
    agreement_ = {digest_, ~digest_, header.flags & compress::flag_non_finite,
                  header.flags & compress::flag_zeroed};
    auto sum = lanes_.reduce->allreduce(payload_of(mine_), payload_of(mean_), ReduceOp::avg);
    return std::make_unique<JoinedWork>(std::move(sum), lanes_.reduce->allreduce_max(agreement_));
  }

  WorkHandle do_combine(int) override { return nullptr; }

  void do_decode(int chunk) override {
    THINWIRE_EXPECTS(agreement_[0] == digest_ && agreement_[1] == ~digest_, FormatError,
                     fmt::format("rank {}: allreduce {} of bf16 payloads: another rank was in "
                                 "another call or plan",
                                 rank(), call_.sequence));
    const auto flags = static_cast<std::uint32_t>(agreement_[2] | agreement_[3]);
    // The averaged payload becomes a slot again, so that one decoder serves all algorithms.
    const std::span payload{mean_.data() + compress::header_bytes,
                            mean_.size() - compress::header_bytes};
    const auto header = compress::make_header(plan_, 0, chunk, Phase::gather, call_.sequence, flags,
                                              compress::digest(payload, 0));
    std::memcpy(mean_.data(), &header, sizeof header);
    verdict_.flags |= coder_->decode(chunk, {mean_.data(), mean_.size()}, call_, gradients_).flags;
  }

  std::span<const std::byte> encoded(int) const override { return {mine_.data(), mine_.size()}; }

  static TensorView payload_of(const Buffer& slot) {
    const std::size_t bytes = slot.size() - compress::header_bytes;
    return {slot.data() + compress::header_bytes, static_cast<std::int64_t>(bytes / 2),
            DType::bf16};
  }

  std::unique_ptr<compress::Coder> coder_;
  Buffer mine_, mean_;
  std::uint64_t plan_id_;  ///< of the plan that was compared between ranks
  std::uint64_t digest_ = 0;
  std::array<std::uint64_t, 4> agreement_{};
};

}  // namespace

std::unique_ptr<BucketExchange> make_summable_exchange(const ExchangeParts& parts,
                                                       compress::Plan plan) {
  return std::make_unique<SummableExchange>(parts, plan);
}

}  // namespace thinwire::comm
