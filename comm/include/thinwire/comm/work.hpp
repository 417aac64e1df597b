#pragma once

#include <chrono>
#include <memory>

namespace thinwire::comm {

using Timeout = std::chrono::milliseconds;

/// One operation under way. Its buffers must stay valid and, where written, untouched until it is
/// done. Progress is made in test() and wait() only, then for all Works of the communicator: no
/// thread works behind the caller's back, and Works may be waited for in any order.
///
/// Not thread-safe: one thread at a time uses a communicator and its Works. The communicator must
/// outlive them. Destroying an unfinished Work of a live communicator is a defect of the caller; it
/// waits for the end, or for the communicator's abort, and aborts it itself after the timeout of
/// the configuration, or at once when an exception destroys it: then nothing will end it any more.
class Work {
 public:
  virtual ~Work() = default;

  /// Makes progress without blocking; true once the operation is complete. Throws what went wrong
  /// (TransportError and its kin), and the same again at each later call.
  virtual bool test() = 0;

  /// Blocks until complete. After `timeout` the communicator is aborted and TimeoutError raised,
  /// naming rank, operation and the peer waited for. Throws AbortedError when a peer failed first.
  virtual void wait(Timeout timeout) = 0;

  /// wait() with the timeout of the configuration.
  void wait();
};

using WorkHandle = std::unique_ptr<Work>;

}  // namespace thinwire::comm
