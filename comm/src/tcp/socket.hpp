#pragma once

#include <chrono>
#include <string>

namespace thinwire::comm {

/// Owns a non-blocking TCP socket; move-only.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_{descriptor} {}
  ~Socket();
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;

  int descriptor() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

/// Listens on `host`, or on every interface where that name is no address of this machine (a
/// forwarded service). Throws TransportError naming host, port and reason.
Socket listen_on(const std::string& host, int port);

/// The next connection, or an empty Socket if none is waiting.
Socket accept_from(const Socket& listener);

/// Connects, again and again until somebody listens. Throws TimeoutError at `deadline`.
Socket connect_to(const std::string& host, int port,
                  std::chrono::steady_clock::time_point deadline);

}  // namespace thinwire::comm
