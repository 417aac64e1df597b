#include "framed_connection.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <bit>
#include <cerrno>
#include <utility>

namespace thinwire::comm {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are little-endian");

using Length = std::uint32_t;
constexpr std::size_t read_bytes = std::size_t{1} << 16;

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/// Drops what was consumed, once that is worth the copy of the rest.
void compact(std::string& buffer, std::size_t& begin) {
  if (begin == buffer.size() || begin >= read_bytes) {
    buffer.erase(0, begin);
    begin = 0;
  }
}

}  // namespace

FramedConnection::FramedConnection(Socket socket, std::size_t cap)
    : socket_{std::move(socket)}, cap_{cap} {}

void FramedConnection::queue(FrameKind kind, std::string_view body) {
  put(out_, static_cast<Length>(body.size() + 1));
  put(out_, kind);
  out_ += body;
}

bool FramedConnection::flush() {
  while (wants_write()) {
    const auto sent = ::send(descriptor(), out_.data() + out_begin_, out_.size() - out_begin_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return would_block();
    out_begin_ += static_cast<std::size_t>(sent);
    last_write_ = Clock::now();
  }
  compact(out_, out_begin_);
  return true;
}

void FramedConnection::end_writing() { ::shutdown(descriptor(), SHUT_WR); }

bool FramedConnection::fill() {
  std::array<char, read_bytes> chunk;
  const auto got = ::recv(descriptor(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (got == 0) return false;
  if (got < 0) return would_block();
  last_read_ = Clock::now();
  compact(in_, in_begin_);
  in_.append(chunk.data(), static_cast<std::size_t>(got));
  frame_length();
  return true;
}

std::optional<std::size_t> FramedConnection::frame_length() const {
  std::string_view rest = std::string_view{in_}.substr(in_begin_);
  if (rest.size() < sizeof(Length)) return std::nullopt;
  const std::size_t length = take<Length>(rest);
  THINWIRE_EXPECTS(
      length >= 1 && length <= cap_ + 1, FormatError,
      fmt::format("a frame of {} bytes arrived; 1 to {} are allowed", length, cap_ + 1));
  return length;
}

std::optional<Frame> FramedConnection::next() {
  const auto length = frame_length();
  if (!length || in_.size() - in_begin_ < sizeof(Length) + *length) return std::nullopt;
  const char* data = in_.data() + in_begin_ + sizeof(Length);
  Frame frame{static_cast<FrameKind>(*data), std::string{data + 1, *length - 1}};
  in_begin_ += sizeof(Length) + *length;
  return frame;
}

}  // namespace thinwire::comm
