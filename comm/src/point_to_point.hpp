#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "thinwire/comm/communicator.hpp"

/// What a transport implements. All collectives stand on these few calls, once for all transports
/// (collectives.cpp); nothing here blocks.
namespace thinwire::comm {

/// One transfer under way. Destroying it gives the transfer up if it is not complete: afterwards
/// the transport neither reads nor writes its buffer.
class Request {
 public:
  virtual ~Request() = default;

  /// Makes progress; true once complete, and it is not asked again then. Throws TransportError, or
  /// UnexpectedSize from a receive.
  virtual bool test() = 0;

  /// The peer does not answer any more, and may not know that the communicator has ended.
  virtual void lose_peer() {}
};

using RequestHandle = std::unique_ptr<Request>;

/// One message of a collective's step.
struct Transfer {
  enum class Way { send, receive };
  Way way;
  int peer;
  std::byte* data;  ///< not written when sent
  std::size_t bytes;
  std::function<void()> arrived = {};  ///< called once the message is there; may be empty
};

/// Thrown by a receive whose message has another size; the collective turns it into a MismatchError
/// that names rank and operation.
struct UnexpectedSize {
  std::string arrived;  ///< bytes of the message, as text: a transport may only know a lower bound
};

/// A split that its ranks have agreed in, and what a transport does while it waits for them.
struct Split {
  int color;
  int place = 0;             ///< this rank's number among the members
  std::vector<int> members;  ///< ranks of the color; empty for a color below 0
  int number = 0;            ///< the one that take_split_number() of the members has been given

  std::function<void()> waiting;  ///< called now and then: tells the others
  std::function<void()> late;     ///< when the time is over: throws, and names who has not come
};

/// Bytes between two ranks, matched by (sender, receiver, tag) in the order of the calls. Tags are
/// in [0, max_tag]. One thread at a time.
class PointToPoint {
 public:
  virtual ~PointToPoint() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  /// Communicator::transport().
  virtual std::string_view name() const = 0;

  /// `peer` is never this rank. A size of 0 is a message too.
  virtual RequestHandle isend(ConstByteView, int /*peer*/, int /*tag*/) { return nullptr; }
  virtual RequestHandle irecv(ByteView, int /*peer*/, int /*tag*/) { return nullptr; }

  /// Whether iallreduce is the transport's own; if not, the library's over isend and irecv is
  /// taken.
  virtual bool has_allreduce() const { return false; }
  /// `op` is sum or max; tensors are of one size and type, and may be one and the same.
  virtual RequestHandle iallreduce(ConstTensorView, TensorView, ReduceOp) { return nullptr; }

  /// Whether the transport knows no messages between two ranks, but exchanges among all: then the
  /// messages of a step go in one iexchange, every rank has as many steps, and isend and irecv are
  /// not called.
  virtual bool exchanges_steps() const { return false; }
  /// The messages of one step, complete together. Two between the same ranks keep their order.
  virtual RequestHandle iexchange(std::span<const Transfer>) { return nullptr; }

  /// What this rank proposes to its next split, where a transport needs a number for that; it is
  /// above 0 then, on every rank.
  virtual int split_number() { return 0; }
  /// Takes the number that the ranks of a split have agreed in, if it needs one for so many
  /// members; false if another split of this process has taken it meanwhile: the ranks have to
  /// agree again.
  virtual bool take_split_number(int /*number*/, std::size_t /*members*/) { return true; }
  /// Collective, after all ranks have agreed in it: the transport among the ranks of one color. A
  /// rank of a color below 0 calls it too, and gets nothing.
  virtual struct Endpoint split(const Split& split) = 0;

  static constexpr int max_tag = 32767;  // what MPI promises
};

/// Small messages of the control plane, in any order. Any thread, one at a time.
class ControlChannel {
 public:
  struct Letter {
    int from = -1;
    std::string text;
  };

  virtual ~ControlChannel() = default;

  /// Takes a copy and delivers it when it can. `to` is never this rank.
  virtual void send(int to, std::string_view text) = 0;

  /// The next letter that has arrived, if any.
  virtual std::optional<Letter> receive() = 0;

  /// The communicator has been aborted; said once. Letters are still sent.
  virtual void ended() noexcept {}
};

/// Both ways of one rank to the others of its group.
struct Endpoint {
  std::unique_ptr<PointToPoint> data;
  std::unique_ptr<ControlChannel> control;
};

}  // namespace thinwire::comm
