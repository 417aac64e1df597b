#pragma once

#include <chrono>
#include <cstddef>
#include <deque>

#include "bucket_exchange.hpp"
#include "trace.hpp"

namespace thinwire::comm {

/// Drives chunks of many buckets through their stages on one thread: while some exchanges are on
/// the wire, others are encoded and decoded. Exchanges are posted in the order of push on each
/// lane.
class ExchangeLoop {
 public:
  /// `trace`, if any, gets the stages of every chunk.
  explicit ExchangeLoop(Timeout timeout, Trace* trace = nullptr)
      : timeout_{timeout}, trace_{trace} {}

  /// Takes every chunk of `bucket`, whose call has begun. `tag` comes back when all are decoded.
  void push(BucketExchange& bucket, std::size_t tag);

  bool idle() const { return tasks_.empty(); }

  /// Makes one step of progress: polls the wire, then runs at most one codec stage, or rests
  /// briefly if there was nothing to do. Returns true and sets `finished` to the tag of a bucket
  /// that is complete. Not to be called when idle(). Throws what a stage or an exchange threw,
  /// with bucket (its tag) and chunk where it is about peers; a wait beyond the timeout is
  /// TimeoutError.
  bool step(std::size_t& finished);

  /// Drops what is in flight, after an abort.
  void clear() { tasks_.clear(); }

 private:
  enum class Stage { encode, reducing, combine, gathering, decode, done };
  struct Task {
    BucketExchange* bucket;
    int chunk;
    std::size_t tag;
    bool last;  ///< of its bucket
    Stage stage = Stage::encode;
    WorkHandle work;
    std::chrono::steady_clock::time_point posted{};
    std::chrono::steady_clock::time_point deadline{};
  };

  void poll(Task& task);
  void advance(Task& task);
  void post(Task& task, WorkHandle work, Stage waiting, Stage ready);
  Task* choose();
  bool pop_completed(std::size_t& finished);
  void rest(CallMetrics& metrics);
  void note(const Task& task, std::string_view name, std::chrono::steady_clock::time_point begin);

  Timeout timeout_;
  Trace* trace_;
  std::deque<Task> tasks_;
  int idle_rounds_ = 0;
};

}  // namespace thinwire::comm
