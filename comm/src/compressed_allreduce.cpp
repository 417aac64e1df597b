#include "thinwire/comm/compressed_allreduce.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "bucket_exchange.hpp"
#include "exchange_loop.hpp"
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

int default_codec_threads(const Communicator& communicator) {
  if (config().threads > 0) return config().threads;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / communicator.local_size());
}

struct CompressedAllreduce::Impl {
  Impl(Communicator& communicator_, compress::Plan plan, std::shared_ptr<WorkerPool> pool,
       std::shared_ptr<MemoryResource> memory)
      : communicator{communicator_},
        lanes{communicator},
        bucket{lanes, std::move(plan), std::move(pool), std::move(memory)} {}

  Communicator& communicator;
  Lanes lanes;
  BucketExchange bucket;
  std::uint64_t sequence = 0;
};

CompressedAllreduce::CompressedAllreduce(Communicator& communicator, compress::Plan plan,
                                         std::shared_ptr<WorkerPool> pool,
                                         std::shared_ptr<MemoryResource> memory) {
  require_equal_plans(communicator, {&plan, 1}, config().timeout);
  impl_ = std::make_unique<Impl>(communicator, std::move(plan), std::move(pool), std::move(memory));
}

CompressedAllreduce::~CompressedAllreduce() = default;

const compress::Plan& CompressedAllreduce::plan() const { return impl_->bucket.plan(); }

compress::Verdict CompressedAllreduce::run(TensorView gradients, const float* inv_scale,
                                           const float* out_scale, Timeout timeout) {
  Impl& impl = *impl_;
  impl.bucket.begin(gradients, {++impl.sequence, inv_scale, out_scale});
  ExchangeLoop loop{timeout == Timeout{} ? config().timeout : timeout};
  loop.push(impl.bucket, 0);
  try {
    std::size_t finished = 0;
    while (!loop.step(finished)) {
    }
  } catch (...) {
    abort_all(impl.communicator, impl.lanes, std::current_exception());
    impl.bucket.state().discard();
    throw;
  }
  return impl.bucket.verdict();
}

void CompressedAllreduce::end_step(bool commit) {
  if (commit) {
    impl_->bucket.state().commit();
  } else {
    impl_->bucket.state().discard();
  }
}

compress::State& CompressedAllreduce::state() { return impl_->bucket.state(); }
const CallMetrics& CompressedAllreduce::metrics() const { return impl_->bucket.metrics(); }

}  // namespace thinwire::comm
