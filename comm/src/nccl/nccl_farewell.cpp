#include "nccl_farewell.hpp"

#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

#include "../backoff.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

constexpr std::chrono::milliseconds patience{200};
constexpr std::chrono::milliseconds last_patience{5000};

struct UnderWay {
  std::mutex mutex;
  std::condition_variable fewer;
  int count = 0;
};

/// Of this process. Threads hold what they count in, since they may outlive this.
class Farewells {
 public:
  ~Farewells() {
    std::unique_lock lock{under_way_->mutex};
    if (under_way_->fewer.wait_for(lock, last_patience, [&] { return under_way_->count == 0; })) {
      return;
    }
    log(LogLevel::warning, "other ranks have not ended their NCCL communicators; this one leaves");
  }

  std::shared_ptr<UnderWay> begin() {
    const std::scoped_lock lock{under_way_->mutex};
    ++under_way_->count;
    return under_way_;
  }

 private:
  std::shared_ptr<UnderWay> under_way_ = std::make_shared<UnderWay>();
};

void end(const NcclFarewell& last) {
  last.cuda.set_device(last.device);
  ncclResult_t result = last.nccl.comm_finalize(last.communicator);
  for (Backoff backoff; result == ncclInProgress; backoff.pause()) {
    if (last.nccl.comm_get_async_error(last.communicator, &result) != ncclSuccess) break;
  }
  if (result == ncclSuccess) {
    result = last.nccl.comm_destroy(last.communicator);
  } else {
    last.nccl.comm_abort(last.communicator);
  }
  if (result != ncclSuccess && result != ncclInProgress) {
    log(LogLevel::warning, last.nccl.get_error_string(result));
  }
  last.cuda.release(last.word);
  last.cuda.destroy_stream(last.stream);
}

}  // namespace

void bid_farewell(const NcclFarewell& last) {
  static Farewells farewells;
  std::promise<void> ended;
  const auto soon = ended.get_future();
  std::thread{[last, under_way = farewells.begin(), ended = std::move(ended)]() mutable {
    end(last);
    ended.set_value();
    const std::scoped_lock lock{under_way->mutex};
    --under_way->count;
    under_way->fewer.notify_all();
  }}.detach();
  soon.wait_for(patience);
}

}  // namespace thinwire::comm
