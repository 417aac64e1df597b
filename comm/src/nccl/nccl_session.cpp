#include "nccl_session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "../backoff.hpp"
#include "../channel_control_plane.hpp"
#include "../farewell.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

constexpr Timeout watch_interval{10};
constexpr Timeout inquest_time{400};  // for the question who else waits
constexpr Timeout hearsay_time{500};  // for the news why a peer's connection broke
constexpr Timeout patience_with_nccl{200};

/// The rank that an error blames, -1 if it names none.
AbortNotice notice_of(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const TransportError& e) {
    return {e.peer, e.what()};
  } catch (const std::exception& e) {
    return {-1, e.what()};
  } catch (...) {
    return {-1, "unknown error"};
  }
}

/// Returns when all ranks of the machine have called it.
void end_well(const NcclFunctions& nccl, ncclComm_t communicator) {
  ncclResult_t result = nccl.comm_finalize(communicator);
  for (Backoff backoff; result == ncclInProgress; backoff.pause()) {
    if (nccl.comm_get_async_error(communicator, &result) != ncclSuccess) break;
  }
  const bool well = result == ncclSuccess;
  result = well ? nccl.comm_destroy(communicator) : nccl.comm_abort(communicator);
  if (!well) log(LogLevel::warning, "a NCCL communicator could not be finalized and was aborted");
  if (result != ncclSuccess && result != ncclInProgress) {
    log(LogLevel::warning, nccl.get_error_string(result));
  }
}

}  // namespace

NcclSession::NcclSession(const NcclFunctions& nccl, const CudaFunctions& cuda,
                         std::unique_ptr<HostGroup> group, const NcclOptions& options)
    : nccl_{nccl},
      cuda_{cuda},
      options_{options},
      timeout_{options.timeout == Timeout{} ? config().timeout : options.timeout},
      group_{std::move(group)},
      rank_{group_->control().rank()},
      size_{group_->control().size()},
      events_{cuda} {}

NcclSession::~NcclSession() {
  if (watchdog_.joinable()) {
    {
      const std::scoped_lock lock{mutex_};
      stopping_ = true;
    }
    wake_.notify_all();
    watchdog_.join();
  }
  if (!failed_ && communicator_ != nullptr) {
    bid_farewell([nccl = nccl_, cuda = cuda_, communicator = communicator_, device = device_,
                  stream = stream_, word = word_] {
      cuda.set_device(device);
      end_well(nccl, communicator);
      cuda.release(word);
      cuda.destroy_stream(stream);
    });
    return;
  }
  end_communicator();
  if (word_ != nullptr) cuda_.release(word_);
  if (stream_ != nullptr) cuda_.destroy_stream(stream_);
}

std::string NcclSession::context(OperationName name) const {
  return name.bytes == 0
             ? fmt::format("rank {}: nccl {}", rank_, name.verb)
             : fmt::format("rank {}: nccl {} of {} bytes", rank_, name.verb, name.bytes);
}

void NcclSession::check(ncclResult_t result, OperationName name) const {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* detail =
      nccl_.get_last_error != nullptr ? nccl_.get_last_error(communicator_) : nullptr;
  throw TransportError{
      fmt::format("{}: {}{}{}; NCCL_DEBUG=WARN says more", context(name),
                  nccl_.get_error_string(result), detail != nullptr && *detail != '\0' ? ": " : "",
                  detail != nullptr ? detail : ""),
      rank_};
}

void NcclSession::check(cudaError_t code, const char* call) const {
  THINWIRE_EXPECTS(code == cudaSuccess, TransportError,
                   fmt::format("rank {}: {}: {}", rank_, call, cuda_.error_text(code)));
}

void NcclSession::settle(ncclResult_t result, ncclComm_t communicator, OperationName name,
                         Clock::time_point deadline, std::unique_lock<std::timed_mutex>& lock) {
  check(result, name);
  Backoff backoff;
  while (result == ncclInProgress) {
    check(nccl_.comm_get_async_error(communicator, &result), name);
    check(result, name);
    if (result != ncclInProgress) return;
    lock.unlock();
    throw_failure();
    if (const auto notice = control().abort_notice()) throw aborted_error(context(name), *notice);
    THINWIRE_EXPECTS(
        Clock::now() < deadline, TimeoutError,
        fmt::format("{}: NCCL was not ready within {} ms", context(name), timeout_.count()));
    backoff.pause();
    lock.lock();
    THINWIRE_EXPECTS(communicator_ != nullptr || communicator == nullptr, AbortedError,
                     fmt::format("{}: the communicator has ended", context(name)));
  }
}

NcclOperationHandle NcclSession::run(OperationName name, StreamView stream, Calls calls,
                                     const Enqueue& enqueue) {
  throw_failure();
  try {
    std::unique_lock lock{nccl_mutex_};
    if (communicator_ == nullptr) throw_failure();
    ncclResult_t result = ncclSuccess;
    if (calls == Calls::several) {
      check(nccl_.group_start(), name);
      const ncclResult_t called = enqueue(nccl_, communicator_);
      result = nccl_.group_end();
      check(called, name);
    } else {
      result = enqueue(nccl_, communicator_);
    }
    settle(result, communicator_, name, deadline_after(timeout_), lock);
  } catch (...) {
    fail(std::current_exception());
    throw;
  }
  ++operations_;
  auto operation = mark(name, stream);
  if (operation->done) return operation;  // of a graph
  const std::scoped_lock lock{mutex_};
  enqueued_.push_back(operation);
  last_ = operation;
  return operation;
}

NcclOperationHandle NcclSession::mark(OperationName name, StreamView stream) {
  throw_failure();
  auto operation = std::make_shared<NcclOperation>();
  operation->name = name;
  operation->number = operations_;
  operation->enqueued = Clock::now();
  try {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check(cuda_.is_capturing(stream.handle(), &capture), "cudaStreamIsCapturing");
    if (capture != cudaStreamCaptureStatusNone) {
      operation->done = true;
      return operation;
    }
    operation->event = events_.take();
    check(cuda_.record_event(operation->event.get(), stream.handle()), "cudaEventRecord");
  } catch (...) {
    fail(std::current_exception());
    throw;
  }
  return operation;
}

NcclOperationHandle NcclSession::barrier() {
  return run({"barrier"}, StreamView{stream_}, Calls::one,
             [this](const NcclFunctions& nccl, ncclComm_t comm) {
               return nccl.all_reduce(word_, word_, 1, ncclUint8, ncclMax, comm, stream_);
             });
}

bool NcclSession::done(NcclOperation& operation) {
  if (operation.done) return true;
  throw_failure();  // an aborted kernel ends too, but not well
  const cudaError_t code = cuda_.query_event(operation.event.get());
  if (code == cudaErrorNotReady) return false;
  if (code != cudaSuccess) {
    fail(std::make_exception_ptr(TransportError{
        fmt::format("{}: {}", context(operation.name), cuda_.error_text(code)), rank_}));
  }
  throw_failure();  // it may have come between
  operation.done = true;
  return true;
}

void NcclSession::wait(NcclOperation& operation, Timeout timeout) {
  const auto deadline = deadline_after(timeout);
  for (Backoff backoff; !done(operation); backoff.pause()) {
    if (Clock::now() < deadline) continue;
    try {
      raise_timeout(operation, timeout);
    } catch (...) {
      fail(std::current_exception());
    }
  }
}

void NcclSession::wait_for(OperationName name, StreamView stream, Timeout timeout) {
  wait(*mark(name, stream), timeout);
  NcclOperationHandle last;
  {
    const std::scoped_lock lock{mutex_};
    last = last_;
  }
  if (last) wait(*last, timeout);  // NCCL does a communicator's operations one after the other
}

void NcclSession::raise_timeout(const NcclOperation& operation, Timeout timeout) {
  const std::uint64_t mine = operations_;
  const auto text = fmt::format("{} (number {}) timed out after {} ms", context(operation.name),
                                operation.number, timeout.count());
  if (const auto notice = control().abort_notice()) throw aborted_error(text, *notice);
  // Who waits too answers within moments; who does not, or has enqueued less, is whom we wait for.
  int culprit = -1;
  try {
    const auto counts = inquest_->control().all_gather(std::to_string(mine), inquest_time);
    std::uint64_t least = mine;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const auto count = std::stoull(counts[i]);
      if (count < least) culprit = static_cast<int>(i);
      least = std::min<std::uint64_t>(least, count);
    }
  } catch (const TransportError& error) {
    culprit = error.peer;
  }
  throw TimeoutError{
      culprit < 0 ? text + " on all ranks alike: is the network alive?"
                  : fmt::format("{} waiting for rank {}; is it alive, and does it make the same "
                                "calls? If it is only slow, raise THINWIRE_TIMEOUT",
                                text, culprit),
      culprit};
}

void NcclSession::abort(std::string_view reason, int culprit) noexcept {
  try {
    AbortNotice notice{culprit < 0 ? rank_ : culprit, std::string{reason}};
    const auto error = aborted_error(fmt::format("rank {}", rank_), notice);
    fail(std::make_exception_ptr(error), std::move(notice));
  } catch (...) {  // out of memory for the text
    fail(std::current_exception());
  }
}

void NcclSession::fail(std::exception_ptr error) noexcept { fail(error, notice_of(error)); }

void NcclSession::fail(std::exception_ptr error, AbortNotice notice) noexcept {
  {
    const std::scoped_lock lock{mutex_};
    if (failure_) return;
    failure_ = error;
    failed_ = true;
  }
  wake_.notify_all();  // the watchdog ends the communicator
  if (notice.culprit < 0) notice.culprit = rank_;
  control().post_abort(notice);
}

void NcclSession::throw_failure() const {
  if (!failed_) return;
  const std::scoped_lock lock{mutex_};
  std::rethrow_exception(failure_);
}

void NcclSession::keep_watch() {
  cuda_.set_device(device_);
  cuda_.relax_capture();
  std::unique_lock lock{mutex_};
  while (!stopping_) {
    wake_.wait_for(lock, watch_interval, [this] { return stopping_ || failed_.load(); });
    lock.unlock();
    if (!failed_) look();
    if (failed_) end_communicator();
    lock.lock();
    if (failed_) wake_.wait(lock, [this] { return stopping_; });
  }
}

void NcclSession::look() noexcept {
  try {
    if (const auto notice = control().abort_notice()) {
      throw aborted_error(fmt::format("rank {}", rank_), *notice);
    }
    look_for_async_error();
    look_at_oldest();
  } catch (...) {
    fail(std::current_exception());
  }
}

void NcclSession::look_for_async_error() {
  ncclResult_t result = ncclSuccess;
  {
    const std::unique_lock lock{nccl_mutex_, std::try_to_lock};
    if (!lock || communicator_ == nullptr) return;
    check(nccl_.comm_get_async_error(communicator_, &result), {"asynchronous error"});
  }
  if (result == ncclSuccess || result == ncclInProgress) return;
  // A connection that breaks is most often the first sign of a dead peer: the control plane knows
  // which one, in a moment.
  const auto deadline = deadline_after(hearsay_time);
  for (Backoff backoff; Clock::now() < deadline; backoff.pause()) {
    if (const auto notice = control().abort_notice()) {
      throw aborted_error(context({"asynchronous error"}), *notice);
    }
  }
  check(result, {"asynchronous error"});
}

/// Asks about few: who enqueues small operations in a row must not wait for this thread. They end
/// in the order of their calls.
void NcclSession::look_at_oldest() {
  {
    const std::scoped_lock lock{mutex_};
    watched_.insert(watched_.end(), enqueued_.begin(), enqueued_.end());
    enqueued_.clear();
  }
  const auto first = std::partition_point(
      watched_.begin(), watched_.end(), [this](const NcclOperationHandle& operation) {
        return operation->done || cuda_.query_event(operation->event.get()) == cudaSuccess;
      });
  const bool some_ended = first != watched_.begin();
  std::for_each(watched_.begin(), first, [](const auto& operation) { operation->done = true; });
  watched_.erase(watched_.begin(), first);
  if (watched_.empty()) return;
  NcclOperation& oldest = *watched_.front();
  if (const cudaError_t code = cuda_.query_event(oldest.event.get());
      code != cudaSuccess && code != cudaErrorNotReady) {
    throw TransportError{fmt::format("{}: {}", context(oldest.name), cuda_.error_text(code)),
                         rank_};
  }
  // It had to wait for those that ended now.
  if (some_ended) oldest.enqueued = Clock::now();
  if (Clock::now() - oldest.enqueued > timeout_) raise_timeout(oldest, timeout_);
}

void NcclSession::end_communicator() noexcept {
  // A thread that hangs inside NCCL holds the lock; the abort is what frees it.
  const std::unique_lock lock{nccl_mutex_, patience_with_nccl};
  if (communicator_ == nullptr) return;
  const ncclResult_t result = nccl_.comm_abort(std::exchange(communicator_, nullptr));
  if (result != ncclSuccess && result != ncclInProgress) {
    log(LogLevel::error, nccl_.get_error_string(result));
  }
}

}  // namespace thinwire::comm
