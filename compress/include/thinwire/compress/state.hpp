#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "thinwire/compress/plan.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::compress {

/// A residual outside any plan: what one rank remembers of `length` elements of a parameter.
struct Residual {
  std::string parameter;
  std::int64_t offset = 0;  ///< first element within the parameter
  std::vector<float> values;
};

/// Error-feedback memory of one plan on one rank, in true gradient units, zero at first: the worker
/// residual of everything this rank sends and the server residual of the shard it owns.
///
/// A step reads the committed version. Server residuals, and worker residuals under
/// Commit::double_buffered, are written to a second version that commit() makes the committed one
/// and discard() drops; worker residuals under Commit::in_place change as they are encoded.
///
/// Not thread-safe; the caller orders steps.
class State {
 public:
  /// `shard`: what this rank owns. `plan` must outlive the state. Throws OutOfMemory.
  State(const Plan& plan, int shard, std::shared_ptr<MemoryResource> memory);

  const Plan& plan() const { return *plan_; }
  int shard() const { return shard_; }

  /// Bases of the versions, indexed by Piece::residual and Piece::server. `next` is `committed`
  /// itself where residuals change in place.
  const float* worker_committed() const;
  float* worker_next();
  const float* server_committed() const;
  float* server_next();

  /// Starts a call. In place, one that commit() or discard() did not follow counts as committed.
  /// Throws InvalidArgument while a double-buffered step has not ended.
  void begin_call();
  /// An encode or a server step has written its part of `next`; commit() will take all of it up.
  /// Concurrent chunks of one call may mark at the same time.
  void mark_worker_written() { mark(worker_written_); }
  void mark_server_written() { mark(server_written_); }
  /// True between a step's encode and its commit or discard.
  bool in_step() const { return worker_written_ || server_written_; }

  /// Ends a step: what was written becomes the committed version. Nothing written: nothing changes.
  void commit();
  /// Ends a step: what was written is dropped (residuals written in place stay).
  void discard();

  /// The committed residuals by parameter; blocks without feedback are left out. Between steps
  /// only.
  std::vector<Residual> export_worker() const;
  std::vector<Residual> export_server() const;

  /// Puts residuals back where this plan has these elements; what the plan does not have is ignored
  /// and what is not given keeps its value. Returns the number of elements taken.
  std::int64_t import_worker(std::span<const Residual> residuals);
  std::int64_t import_server(std::span<const Residual> residuals);

 private:
  static void mark(bool& written) {
    std::atomic_ref{written}.store(true, std::memory_order_relaxed);
  }

  const Plan* plan_;
  int shard_;
  Buffer worker_[2];
  Buffer server_[2];
  int worker_current_ = 0;
  int server_current_ = 0;
  bool worker_written_ = false;
  bool server_written_ = false;
};

}  // namespace thinwire::compress
