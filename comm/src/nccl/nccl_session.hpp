#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../cuda/device_wire.hpp"
#include "../host_group.hpp"
#include "cuda_functions.hpp"
#include "event_pool.hpp"
#include "nccl_functions.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/core/stream.hpp"

namespace thinwire::comm {

/// An operation on the GPU that has been enqueued.
struct NcclOperation {
  OperationName name;
  std::uint64_t number = 0;  ///< counts the session's operations; the same on all ranks
  std::chrono::steady_clock::time_point enqueued;
  EventPool::Event event;  ///< null while a graph is captured: nothing to wait for then
  std::atomic<bool> done{false};
};
using NcclOperationHandle = std::shared_ptr<NcclOperation>;

/// One NCCL communicator from start to end, and the thread that watches over it. The one place
/// where a failure is found, told to the other ranks, named, and answered by ncclCommAbort.
///
/// run() from one thread at a time; abort() and throw_failure() from any.
class NcclSession {
 public:
  using Enqueue = std::function<ncclResult_t(const NcclFunctions&, ncclComm_t)>;

  /// Collective: makes the communicator on the current GPU and uses every kind of connection once.
  /// The tables must outlive the session.
  static std::unique_ptr<NcclSession> start(const NcclFunctions& nccl, const CudaFunctions& cuda,
                                            std::unique_ptr<HostGroup> group,
                                            const NcclOptions& options);
  ~NcclSession();
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;

  ControlPlane& control() { return group_->control(); }
  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  Timeout timeout() const { return timeout_; }
  const NcclFunctions& nccl() const { return nccl_; }

  /// An operation on a stream of the session's own that ends when all ranks have called it.
  NcclOperationHandle barrier();

  /// Calls `enqueue`, inside an NCCL group where it makes several calls, sees to it that NCCL has
  /// taken everything up, and watches `stream` until the GPU is past it. Does not wait for the GPU.
  /// Throws what ended the session.
  NcclOperationHandle run(OperationName name, StreamView stream, Calls calls,
                          const Enqueue& enqueue);

  /// True once the GPU is past the operation. Throws what ended the session.
  bool done(NcclOperation& operation);
  /// Blocks until done. After `timeout` the session ends with a TimeoutError.
  void wait(NcclOperation& operation, Timeout timeout);
  /// The same for everything so far and for what `stream` holds.
  void wait_for(OperationName name, StreamView stream, Timeout timeout);

  /// Collective, as Communicator::split.
  std::unique_ptr<NcclSession> split(int color, int key);

  void abort(std::string_view reason, int culprit) noexcept;
  /// Ends the session on every rank because of an error of this one. Never throws.
  void fail(std::exception_ptr error) noexcept;
  void throw_failure() const;

  std::string context(OperationName name) const;

 private:
  using Clock = std::chrono::steady_clock;

  NcclSession(const NcclFunctions& nccl, const CudaFunctions& cuda,
              std::unique_ptr<HostGroup> group, const NcclOptions& options);

  /// What `stream` holds now, as an operation to wait for.
  NcclOperationHandle mark(OperationName name, StreamView stream);

  void begin();
  void find_neighbours();
  ncclUniqueId agree_on_id();
  void make_communicator();
  void make_blocking();
  void exercise();
  ncclConfig_t make_config(bool blocking) const;

  /// While NCCL says "in progress": asks again, until `deadline`. `lock` is held but for pauses.
  void settle(ncclResult_t result, ncclComm_t communicator, OperationName name,
              Clock::time_point deadline, std::unique_lock<std::timed_mutex>& lock);
  void check(ncclResult_t result, OperationName name) const;
  void check(cudaError_t code, const char* call) const;

  void fail(std::exception_ptr error, AbortNotice notice) noexcept;
  void keep_watch();
  void look() noexcept;
  void look_for_async_error();
  void look_at_oldest();
  [[noreturn]] void raise_timeout(const NcclOperation& operation, Timeout timeout);
  void end_communicator() noexcept;

  const NcclFunctions& nccl_;
  const CudaFunctions& cuda_;
  const NcclOptions options_;
  const Timeout timeout_;
  std::unique_ptr<HostGroup> group_;
  std::unique_ptr<HostGroup> inquest_;  // apart, so that it meets no other use of the control plane
  const int rank_;
  const int size_;
  int device_ = 0;
  int local_rank_ = 0;
  int local_size_ = 1;
  EventPool events_;
  cudaStream_t stream_ = nullptr;  // of barriers and the first operations
  void* word_ = nullptr;           // device memory, for barriers

  std::timed_mutex nccl_mutex_;  // every call of NCCL with the communicator
  ncclComm_t communicator_ = nullptr;
  ncclComm_t child_ = nullptr;  // while it is being made: NCCL writes it from a thread of its own

  mutable std::mutex mutex_;                   // guards what follows
  std::vector<NcclOperationHandle> enqueued_;  // since the watchdog's last look
  NcclOperationHandle last_;                   // of all
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::condition_variable wake_;
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> operations_{0};

  std::deque<NcclOperationHandle> watched_;  // the watchdog's own
  std::thread watchdog_;
};

}  // namespace thinwire::comm
