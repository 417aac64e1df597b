#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/core/stream.hpp"
#include "thinwire/core/tensor_view.hpp"

namespace thinwire::comm {

/// What an operation is called in messages; made into text only when one is needed.
struct OperationName {
  const char* verb;
  std::size_t bytes = 0;
};

/// Whether what is enqueued together is one call or several that leave as one.
enum class Calls : bool { one, several };

/// What CudaEngine and its kin need of a communicator whose buffers are on a GPU: exchanges that
/// leave together and stand in the order of a stream. Such a communicator is both a Communicator
/// and a DeviceWire. Threads as Communicator.
class DeviceWire {
 public:
  /// The exchanges of one group. Nothing is reported here: run() throws what went wrong.
  class Group {
   public:
    virtual ~Group() = default;
    /// Part i of `in` to rank i, part i of `out` from rank i; parts of part_bytes each.
    virtual void all_to_all(const std::byte* in, std::byte* out, std::size_t part_bytes) = 0;
    /// out: every rank's `in` of part_bytes, in rank order.
    virtual void all_gather(const std::byte* in, std::byte* out, std::size_t part_bytes) = 0;
    /// `in` and `out` may be the same.
    virtual void allreduce(ConstTensorView in, TensorView out, ReduceOp op) = 0;
    /// The maximum of each word over ranks, in place.
    virtual void allreduce_max(std::uint64_t* words, std::size_t count) = 0;
  };
  using Body = std::function<void(Group&)>;

  virtual ~DeviceWire() = default;

  /// Enqueues on `stream` what `body` asks for: one call of the group's, or several. Does not wait
  /// for the GPU. Throws what ended the communicator.
  virtual void exchange(OperationName name, StreamView stream, Calls calls, const Body& body) = 0;

  /// Blocks until the GPU is past every exchange so far and what `stream` holds. Throws what ended
  /// the communicator; after `timeout` it ends with a TimeoutError naming the culprit.
  virtual void wait_for(OperationName name, StreamView stream, Timeout timeout) = 0;

  /// Throws what ended the communicator, if it has ended. Does not block.
  virtual void throw_failure() = 0;
};

/// The wire of a communicator on GPUs. Throws InvalidArgument, naming `user`, for another one.
DeviceWire& wire_of(Communicator& communicator, const char* user);

}  // namespace thinwire::comm
