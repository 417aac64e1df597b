#include "bucket_exchange.hpp"

#include <fmt/format.h>

#include <utility>

#include "../stopwatch.hpp"
#include "algorithm.hpp"
#include "fold_back.hpp"

namespace thinwire::comm {

BucketExchange::BucketExchange(const ExchangeParts& parts, compress::Plan plan, int shard)
    : lanes_{parts.lanes}, plan_{std::move(plan)}, state_{plan_, shard, parts.memory} {}

void BucketExchange::begin(TensorView gradients, const compress::CallState& call) {
  const auto& settings = plan_.settings();
  THINWIRE_EXPECTS(
      gradients.dtype == settings.dtype && gradients.numel >= plan_.source_extent() &&
          gradients.device == lanes_.reduce->device() && (gradients.data || gradients.numel == 0),
      InvalidArgument,
      fmt::format("rank {}: an allreduce of {} elements of {} was planned, but the gradients given "
                  "are {} elements of {}{}",
                  rank(), plan_.source_extent(), to_string(settings.dtype), gradients.numel,
                  to_string(gradients.dtype),
                  gradients.data || gradients.numel == 0 ? "" : " at a null address"));
  state_.begin_call();
  gradients_ = gradients;
  call_ = call;
  verdict_ = {};
  encoded_chunks_.clear();
  ++metrics_.calls;
  metrics_.plain_wire_bytes +=
      ring_bytes(static_cast<std::uint64_t>(plan_.elements()) * size_of(settings.dtype), ranks());
}

WorkHandle BucketExchange::encode(int chunk) {
  const Stopwatch watch{metrics_.encode_ms};
  do_encode(chunk);
  encoded_chunks_.push_back(chunk);  // before what may fail next
  return post_encoded(chunk);
}

WorkHandle BucketExchange::combine(int chunk) {
  const Stopwatch watch{metrics_.encode_ms};
  return do_combine(chunk);
}

void BucketExchange::decode(int chunk) {
  const Stopwatch watch{metrics_.decode_ms};
  do_decode(chunk);
}

void BucketExchange::take_back() noexcept {
  comm::take_back(state_, encoded_chunks_, [this](int chunk) { return encoded(chunk); });
  encoded_chunks_.clear();
}

void BucketExchange::end_step(bool commit) {
  if (commit) {
    state_.commit();
  } else {
    state_.discard();
  }
  encoded_chunks_.clear();
}

std::unique_ptr<BucketExchange> make_exchange(const ExchangeParts& parts, compress::Plan plan,
                                              Algorithm algorithm) {
  if (plan.plain()) return make_plain_exchange(parts, std::move(plan));
  switch (choose_algorithm(plan, algorithm)) {
    case Algorithm::sparse:
      return make_sparse_exchange(parts, std::move(plan));
    case Algorithm::summable:
      return make_summable_exchange(parts, std::move(plan));
    default:
      return make_two_phase_exchange(parts, std::move(plan));
  }
}

}  // namespace thinwire::comm
