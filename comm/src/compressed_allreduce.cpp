#include "thinwire/comm/compressed_allreduce.hpp"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "exchange/bucket_exchange.hpp"
#include "exchange/exchange_loop.hpp"
#include "failure.hpp"
#include "thinwire/core/config.hpp"

namespace thinwire::comm {

CallMetrics& CallMetrics::operator+=(const CallMetrics& other) {
  calls += other.calls;
  payload_bytes += other.payload_bytes;
  wire_bytes += other.wire_bytes;
  plain_wire_bytes += other.plain_wire_bytes;
  encode_ms += other.encode_ms;
  exchange_ms += other.exchange_ms;
  decode_ms += other.decode_ms;
  return *this;
}

std::string_view to_string(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::automatic:
      return "auto";
    case Algorithm::two_phase:
      return "two_phase";
    case Algorithm::sparse:
      return "sparse";
    case Algorithm::summable:
      return "summable";
  }
  return "unknown";
}

Algorithm parse_algorithm(std::string_view text) {
  for (const Algorithm algorithm :
       {Algorithm::automatic, Algorithm::two_phase, Algorithm::sparse, Algorithm::summable}) {
    if (text == to_string(algorithm)) return algorithm;
  }
  throw InvalidArgument{"unknown algorithm '" + std::string{text} +
                        "'; use auto, two_phase, sparse or summable"};
}

int default_codec_threads(const Communicator& communicator) {
  if (config().threads > 0) return config().threads;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / communicator.local_size());
}

struct CompressedAllreduce::Impl {
  Impl(Communicator& communicator_, compress::Plan plan, std::shared_ptr<WorkerPool> pool,
       std::shared_ptr<MemoryResource> memory, Algorithm algorithm, SharedLanes* shared)
      : communicator{communicator_},
        lanes{take_lanes(communicator, shared)},
        bucket{make_exchange({*lanes, std::move(pool), std::move(memory)}, std::move(plan),
                             algorithm)} {}

  Communicator& communicator;
  std::shared_ptr<Lanes> lanes;
  std::unique_ptr<BucketExchange> bucket;
  std::uint64_t sequence = 0;
};

CompressedAllreduce::CompressedAllreduce(Communicator& communicator, compress::Plan plan,
                                         std::shared_ptr<WorkerPool> pool,
                                         std::shared_ptr<MemoryResource> memory,
                                         Algorithm algorithm, SharedLanes* lanes) {
  require_equal_plans(communicator, {&plan, 1}, algorithm, config().timeout);
  impl_ = std::make_unique<Impl>(communicator, std::move(plan), std::move(pool), std::move(memory),
                                 algorithm, lanes);
}

CompressedAllreduce::~CompressedAllreduce() = default;

const compress::Plan& CompressedAllreduce::plan() const { return impl_->bucket->plan(); }

compress::Verdict CompressedAllreduce::run(TensorView gradients, const float* inv_scale,
                                           const float* out_scale, Timeout timeout) {
  Impl& impl = *impl_;
  impl.bucket->begin(gradients, {impl.sequence + 1, inv_scale, out_scale});
  ++impl.sequence;  // not of a call that was refused: the other ranks do not know of it
  ExchangeLoop loop{timeout == Timeout{} ? config().timeout : timeout};
  loop.push(*impl.bucket, 0);
  try {
    std::size_t finished = 0;
    while (!loop.step(finished)) {
    }
  } catch (...) {
    abort_all(std::current_exception(),
              {&impl.communicator, impl.lanes->reduce.get(), impl.lanes->gather.get()});
    impl.bucket->take_back();
    throw;
  }
  return impl.bucket->verdict();
}

void CompressedAllreduce::end_step(bool commit) { impl_->bucket->end_step(commit); }

compress::State& CompressedAllreduce::state() { return impl_->bucket->state(); }
const CallMetrics& CompressedAllreduce::metrics() const { return impl_->bucket->metrics(); }

}  // namespace thinwire::comm
