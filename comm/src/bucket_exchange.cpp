#include "bucket_exchange.hpp"

#include <fmt/format.h>

#include <chrono>
#include <utility>

namespace thinwire::comm {
namespace {

using Clock = std::chrono::steady_clock;
using compress::Phase;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// Bytes that a ring allreduce of `bytes` sends from one rank.
std::uint64_t ring_bytes(std::uint64_t bytes, int ranks) {
  const auto n = static_cast<std::uint64_t>(ranks);
  return 2 * (n - 1) * bytes / n;
}

void scale_in_place(TensorView tensor, float factor) {
  visit_dtype(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* values = static_cast<T*>(tensor.data);
    for (std::int64_t i = 0; i < tensor.numel; ++i) {
      values[i] = from_float<T>(to_float(values[i]) * factor);
    }
  });
}

}  // namespace

Lanes::Lanes(Communicator& parent)
    : reduce{parent.split(0, parent.rank())}, gather{parent.split(0, parent.rank())} {}

void Lanes::abort(std::string_view reason, int culprit) noexcept {
  reduce->abort(reason, culprit);
  gather->abort(reason, culprit);
}

BucketExchange::BucketExchange(Lanes& lanes, compress::Plan plan, std::shared_ptr<WorkerPool> pool,
                               std::shared_ptr<MemoryResource> memory)
    : lanes_{&lanes},
      plan_{std::move(plan)},
      state_{plan_, lanes.reduce->rank(), memory},
      coder_{compress::make_host_coder(plan_, std::move(pool))} {
  const std::size_t reduce_bytes = plan_.payload_bytes(Phase::reduce);
  const std::size_t gather_bytes = plan_.payload_bytes(Phase::gather);
  const auto ranks = static_cast<std::size_t>(plan_.ranks());
  to_owners_ = Buffer{memory, reduce_bytes, "payload"};
  from_workers_ = Buffer{memory, reduce_bytes, "payload"};
  my_slots_ = Buffer{memory, gather_bytes / ranks, "payload"};
  from_owners_ = Buffer{memory, gather_bytes, "payload"};
}

std::byte* BucketExchange::slots(const Buffer& buffer, int chunk, Phase phase) const {
  return buffer.data() + plan_.chunk_offset(chunk, phase);
}

void BucketExchange::begin(TensorView gradients, const compress::CallState& call) {
  const auto& settings = plan_.settings();
  THINWIRE_EXPECTS(
      gradients.dtype == settings.dtype && gradients.numel >= plan_.source_extent() &&
          gradients.device == lanes_->reduce->device() && (gradients.data || gradients.numel == 0),
      InvalidArgument,
      fmt::format(
          "rank {}: allreduce of {} elements of {} was planned, but the gradients given are "
          "{} elements of {}{}",
          lanes_->reduce->rank(), plan_.source_extent(), to_string(settings.dtype), gradients.numel,
          to_string(gradients.dtype),
          gradients.data || gradients.numel == 0 ? "" : " at a null address"));
  THINWIRE_EXPECTS(!state_.in_step() || settings.commit == compress::Commit::in_place,
                   InvalidArgument,
                   fmt::format("rank {}: a second call on a bucket before the step ended; "
                               "double-buffered residuals need end_step between calls",
                               lanes_->reduce->rank()));
  // In place, a call that end_step did not follow counts as committed.
  if (state_.in_step()) state_.commit();
  gradients_ = gradients;
  call_ = call;
  verdict_ = {};
  ++metrics_.calls;
  metrics_.plain_wire_bytes += ring_bytes(
      static_cast<std::uint64_t>(plan_.elements()) * size_of(settings.dtype), plan_.ranks());
}

WorkHandle BucketExchange::encode(int chunk) {
  if (plan_.plain()) {
    const std::uint64_t bytes = gradients_.bytes();
    metrics_.payload_bytes += bytes;
    metrics_.wire_bytes += ring_bytes(bytes, plan_.ranks());
    return lanes_->reduce->allreduce(gradients_, gradients_, ReduceOp::avg);
  }
  const auto start = Clock::now();
  const std::size_t bytes =
      plan_.slot_bytes(chunk, Phase::reduce) * static_cast<std::size_t>(plan_.ranks());
  std::byte* out = slots(to_owners_, chunk, Phase::reduce);
  coder_->encode(chunk, gradients_, state_, call_, {out, bytes});
  metrics_.encode_ms += ms_since(start);
  metrics_.payload_bytes += bytes;
  metrics_.wire_bytes += bytes - plan_.slot_bytes(chunk, Phase::reduce);
  return lanes_->reduce->all_to_all({out, bytes},
                                    {slots(from_workers_, chunk, Phase::reduce), bytes});
}

WorkHandle BucketExchange::combine(int chunk) {
  if (plan_.plain()) return nullptr;
  const auto start = Clock::now();
  const auto ranks = static_cast<std::size_t>(plan_.ranks());
  const std::size_t in_bytes = plan_.slot_bytes(chunk, Phase::reduce) * ranks;
  const std::size_t out_bytes = plan_.slot_bytes(chunk, Phase::gather);
  std::byte* mine = my_slots_.data() + plan_.chunk_offset(chunk, Phase::gather) / ranks;
  coder_->reduce_encode(chunk, {slots(from_workers_, chunk, Phase::reduce), in_bytes}, state_,
                        call_, {mine, out_bytes});
  metrics_.encode_ms += ms_since(start);
  metrics_.wire_bytes += out_bytes * (ranks - 1);
  return lanes_->gather->all_gather({mine, out_bytes},
                                    {slots(from_owners_, chunk, Phase::gather), out_bytes * ranks});
}

void BucketExchange::decode(int chunk) {
  const auto start = Clock::now();
  if (plan_.plain()) {
    const float factor =
        (call_.inv_scale ? *call_.inv_scale : 1.0f) * (call_.out_scale ? *call_.out_scale : 1.0f);
    if (factor != 1.0f) scale_in_place(gradients_, factor);
  } else {
    const std::size_t bytes =
        plan_.slot_bytes(chunk, Phase::gather) * static_cast<std::size_t>(plan_.ranks());
    verdict_.flags |=
        coder_->decode(chunk, {slots(from_owners_, chunk, Phase::gather), bytes}, call_, gradients_)
            .flags;
  }
  metrics_.decode_ms += ms_since(start);
}

}  // namespace thinwire::comm
