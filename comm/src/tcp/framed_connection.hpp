#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "socket.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {

/// What a frame of the control plane's TCP protocol says. The first five make the handshake.
enum class FrameKind : std::uint8_t {
  hello = 1,      ///< rank to hub: version, rank, size, the rank's nonce
  challenge = 2,  ///< hub to rank: the hub's nonce
  proof = 3,      ///< rank to hub: that it knows the secret
  welcome = 4,    ///< hub to rank: that the hub knows it too
  refused = 5,    ///< hub to rank: one byte, why
  start = 6,      ///< hub to rank: all ranks are there
  letter = 7,     ///< channel, from, to, text
  heartbeat = 8,  ///< empty
  lost = 9,       ///< hub to rank: a rank was lost, and how
  goodbye = 10    ///< the end of what follows is no failure
};

struct Frame {
  FrameKind kind;
  std::string body;
};

/// A socket that carries frames: length u32 (of kind and body), kind u8, body. Never blocks. Memory
/// grows with what has arrived, not with what a length announces, and a length over the cap ends
/// the connection. Not thread-safe.
class FramedConnection {
 public:
  using Clock = std::chrono::steady_clock;

  /// `cap`: bytes of the longest body that is taken.
  FramedConnection(Socket socket, std::size_t cap);

  int descriptor() const { return socket_.descriptor(); }
  void set_cap(std::size_t cap) { cap_ = cap; }

  void queue(FrameKind kind, std::string_view body = {});
  bool wants_write() const { return out_begin_ < out_.size(); }

  /// Writes what the socket takes. False: the peer is gone.
  bool flush();

  /// The peer then reads an end after what has been written.
  void end_writing();

  /// Reads some of what there is. False: the peer is gone. Throws FormatError for a frame that is
  /// over the cap or empty; call next() until it is empty before filling again.
  bool fill();

  /// The next complete frame that was read.
  std::optional<Frame> next();

  Clock::time_point last_read() const { return last_read_; }
  Clock::time_point last_write() const { return last_write_; }

 private:
  std::optional<std::size_t> frame_length() const;

  Socket socket_;
  std::size_t cap_;
  std::string in_, out_;
  std::size_t in_begin_ = 0;
  std::size_t out_begin_ = 0;
  Clock::time_point last_read_ = Clock::now();
  Clock::time_point last_write_ = Clock::now();
};

/// Fixed-width little-endian integers in a body.
template <typename Integer>
void put(std::string& body, Integer value) {
  body.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Takes one from the front. Throws FormatError if the body is too short.
template <typename Integer>
Integer take(std::string_view& body) {
  Integer value{};
  THINWIRE_EXPECTS(body.size() >= sizeof value, FormatError,
                   "a frame of the control plane is too short");
  body.copy(reinterpret_cast<char*>(&value), sizeof value);
  body.remove_prefix(sizeof value);
  return value;
}

}  // namespace thinwire::comm
