#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/tcp_control_plane.hpp"

namespace thinwire::comm {

/// The one call that somebody else's collective library serves (a torch process group, say), so
/// that a Communicator can stand on it.
///
/// Calls come from one thread at a time and in the same order on all ranks; several are under way
/// together.
class ByteExchange {
 public:
  /// Told once, from any thread, when a call is over: an empty text, or what went wrong.
  using Done = std::function<void(std::string error)>;

  virtual ~ByteExchange() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Starts an all-to-all and returns: `in` holds what goes to each rank, in rank order and without
  /// gaps, in_bytes[j] bytes for rank j; `out` what comes from each. Both stay valid until `done`.
  /// May throw instead of calling `done`.
  virtual void all_to_all(ConstByteView in, std::span<const std::size_t> in_bytes, ByteView out,
                          std::span<const std::size_t> out_bytes, Done done) = 0;

  /// Collective among `members` (ranks of this exchange, in the new order): an exchange of their
  /// own, apart from this one. `name` is the same on all members and unique within this exchange.
  virtual std::unique_ptr<ByteExchange> split(std::span<const int> members,
                                              const std::string& name) = 0;
};

/// Collective: a communicator of host memory over `exchange`, with a TCP control plane of its own.
/// `rendezvous` has the exchange's rank and size. There are no messages between two ranks here:
/// send and recv end in a TransportError.
///
/// Throws as make_tcp_control_plane.
std::unique_ptr<Communicator> make_callback_communicator(std::unique_ptr<ByteExchange> exchange,
                                                         const TcpRendezvous& rendezvous);

}  // namespace thinwire::comm
