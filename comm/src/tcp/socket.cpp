#include "socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

using Clock = std::chrono::steady_clock;
using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

constexpr std::chrono::milliseconds retry_pause{20};
constexpr std::chrono::milliseconds one_attempt{2000};

/// The addresses of a name; null `host`: of every interface. Empty, with the reason in `why`, if
/// there are none.
Addresses resolve(const char* host, int port, std::string& why) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (host == nullptr ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host, std::to_string(port).c_str(), &hints, &found);
  if (status != 0) why = gai_strerror(status);
  return {found, &freeaddrinfo};
}

Socket make_socket(const addrinfo& address) {
  Socket socket{::socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
                         address.ai_protocol)};
  const int on = 1;
  // Small letters must not wait for more bytes to come.
  if (socket) setsockopt(socket.descriptor(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return socket;
}

Socket try_listen(const char* host, int port, std::string& why) {
  const auto addresses = resolve(host, port, why);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    Socket socket = make_socket(*a);
    const int on = 1;
    if (socket) setsockopt(socket.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (socket && bind(socket.descriptor(), a->ai_addr, a->ai_addrlen) == 0 &&
        ::listen(socket.descriptor(), SOMAXCONN) == 0) {
      return socket;
    }
    why = std::strerror(errno);
  }
  return {};
}

Socket try_connect(const addrinfo& address, Clock::time_point deadline, std::string& why) {
  Socket socket = make_socket(address);
  if (!socket || (connect(socket.descriptor(), address.ai_addr, address.ai_addrlen) != 0 &&
                  errno != EINPROGRESS)) {
    why = std::strerror(errno);
    return {};
  }
  pollfd entry{socket.descriptor(), POLLOUT, 0};
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  poll(&entry, 1, static_cast<int>(std::clamp(left, retry_pause, one_attempt).count()));
  int error = ETIMEDOUT;
  socklen_t length = sizeof error;
  if ((entry.revents & (POLLOUT | POLLERR | POLLHUP)) != 0) {
    getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error == 0) return socket;
  why = std::strerror(error);
  return {};
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) close(descriptor_);
}

Socket::Socket(Socket&& other) noexcept : descriptor_{std::exchange(other.descriptor_, -1)} {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Socket listen_on(const std::string& host, int port) {
  std::string why;
  Socket socket = try_listen(host.c_str(), port, why);
  if (!socket && why == std::strerror(EADDRNOTAVAIL)) {
    log(LogLevel::warning,
        fmt::format("{} is no address of this machine: listening on every interface, port {}", host,
                    port));
    socket = try_listen(nullptr, port, why);
  }
  THINWIRE_EXPECTS(static_cast<bool>(socket), TransportError,
                   fmt::format("rank 0 cannot listen on {} port {}: {}; set THINWIRE_MASTER_ADDR "
                               "and THINWIRE_MASTER_PORT to a free port of rank 0's machine",
                               host, port, why));
  return socket;
}

Socket accept_from(const Socket& listener) {
  Socket socket{accept4(listener.descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
  const int on = 1;
  if (socket) setsockopt(socket.descriptor(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return socket;
}

Socket connect_to(const std::string& host, int port, Clock::time_point deadline) {
  std::string why = "no address";
  do {
    const auto addresses = resolve(host.c_str(), port, why);
    for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
      if (Socket socket = try_connect(*a, deadline, why)) return socket;
    }
    std::this_thread::sleep_for(retry_pause);
  } while (Clock::now() < deadline);
  throw TimeoutError{
      fmt::format("rank 0 does not answer on {} port {} ({}); is it running, and are "
                  "THINWIRE_MASTER_ADDR and THINWIRE_MASTER_PORT the same on all "
                  "ranks?",
                  host, port, why),
      0};
}

}  // namespace thinwire::comm
