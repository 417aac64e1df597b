#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <set>

#include "nccl/cuda_functions.hpp"
#include "nccl/nccl_functions.hpp"

namespace thinwire::comm {

/// NCCL and CUDA that move nothing and fail on demand. A rank is a thread: set FakeGpus::me first.
/// One FakeGpus exists at a time; its tables are for that one.
class FakeGpus {
 public:
  static constexpr int most_ranks = 8;
  static thread_local int me;

  struct Rank {
    std::atomic<int> polls_until_ready{3};  ///< "in progress" answers after an init or a split
    std::atomic<ncclResult_t> init_result{ncclInProgress};
    std::atomic<ncclResult_t> call_result{ncclSuccess};  ///< of the collectives
    std::atomic<ncclResult_t> async_error{ncclSuccess};
    std::atomic<cudaError_t> event_error{cudaSuccess};  ///< of recording and asking
    std::atomic<bool> stuck{false};                     ///< operations do not end until the abort
    std::atomic<bool> capturing{false};
    std::atomic<int> version{22809};
    std::atomic<int> gpu{-1};        ///< -1: the rank's number
    std::atomic<int> operations{0};  ///< calls that would move data
    std::atomic<int> events_recorded{0};
    std::atomic<int> inits{0}, splits{0}, ids{0}, aborts{0}, destroys{0};
    std::atomic<bool> peers_are_late{false};  ///< to destroy their communicators
    std::atomic<bool> recorded_while_starting{false};
    std::atomic<bool> starting{false};
    std::atomic<bool> aborted{false};
  };

  FakeGpus();
  ~FakeGpus();

  Rank& rank(int i) { return ranks_[static_cast<std::size_t>(i)]; }
  NcclFunctions nccl() const;
  CudaFunctions cuda() const;

  /// Communicators and events that were made and not ended.
  int open_communicators() const { return open_communicators_; }
  int open_events() const { return open_events_; }

  std::atomic<int> open_communicators_{0};
  std::atomic<int> open_events_{0};

 private:
  std::array<Rank, most_ranks> ranks_;
};

}  // namespace thinwire::comm
