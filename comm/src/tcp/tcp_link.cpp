#include "tcp_link.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "../farewell.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t letter_head = 16;                               // channel, from, to
constexpr std::size_t letter_cap = ControlPlane::max_message + 4096;  // and what is around a text
constexpr Timeout longest_goodbye{10000};

}  // namespace

TcpLink::TcpLink(TcpRendezvous rendezvous)
    : rendezvous_{std::move(rendezvous)},
      beat_{std::clamp(rendezvous_.timeout / 10, Timeout{10}, Timeout{1000})},
      silence_{rendezvous_.timeout * 3 / 4},
      wake_{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)} {
  if (size() == 1) return;
  if (rank() == 0) {
    auto connections = receive_ranks(rendezvous_);
    for (int i = 1; i < size(); ++i) {
      spokes_.push_back({i, std::move(connections[static_cast<std::size_t>(i)])});
    }
  } else {
    spokes_.push_back({0, join_rank_0(rendezvous_)});
  }
  for (Spoke& spoke : spokes_) spoke.connection->set_cap(letter_cap);
  thread_ = std::thread{[this] { run(); }};
}

std::shared_ptr<TcpLink> TcpLink::open(TcpRendezvous rendezvous) {
  return {new TcpLink{std::move(rendezvous)}, [](TcpLink* link) {
            const auto last = [link] { delete link; };
            link->size() > 1 ? bid_farewell(last) : last();
          }};
}

TcpLink::~TcpLink() {
  if (!thread_.joinable()) return;
  {
    const std::scoped_lock lock{mutex_};
    stopping_ = true;
    stop_deadline_ = Clock::now() + std::min(rendezvous_.timeout, longest_goodbye);
    for (Spoke& spoke : spokes_) spoke.connection->queue(FrameKind::goodbye);
  }
  wake();
  thread_.join();
}

void TcpLink::wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(wake_.descriptor(), &one, sizeof one);
}

TcpLink::Spoke& TcpLink::spoke_to(int to) {
  return spokes_[rank() == 0 ? static_cast<std::size_t>(to - 1) : 0];
}

void TcpLink::send(std::uint64_t channel, int to, std::string_view text) {
  THINWIRE_ASSERT(to >= 0 && to < size() && to != rank());
  std::string body;
  body.reserve(letter_head + text.size());
  put(body, channel);
  put(body, static_cast<std::uint32_t>(rank()));
  put(body, static_cast<std::uint32_t>(to));
  body += text;
  {
    const std::scoped_lock lock{mutex_};
    spoke_to(to).connection->queue(FrameKind::letter, body);
  }
  wake();
}

std::optional<TcpLink::Letter> TcpLink::receive(std::uint64_t channel) {
  const std::scoped_lock lock{mutex_};
  const auto queue = letters_.find(channel);
  if (queue == letters_.end()) return std::nullopt;
  Letter letter = std::move(queue->second.front());
  queue->second.pop_front();
  if (queue->second.empty()) letters_.erase(queue);
  return letter;
}

std::optional<AbortNotice> TcpLink::loss() {
  const std::scoped_lock lock{mutex_};
  return loss_;
}

bool TcpLink::all_left() const {
  return std::all_of(spokes_.begin(), spokes_.end(), [&](const Spoke& spoke) {
    // Rank 0 stays until the others need no forwarding; they, until rank 0 has read it all: to
    // close on letters that nobody will read resets a connection, and what was written may be lost.
    if (!spoke.open) return true;
    return rank() == 0 && spoke.leaving && !spoke.connection->wants_write();
  });
}

void TcpLink::run() {
  std::unique_lock lock{mutex_};
  while (!stopping_ || (!all_left() && Clock::now() < stop_deadline_)) {
    lock.unlock();
    wait_for_events();
    lock.lock();
    for (Spoke& spoke : spokes_) {
      if (spoke.open) serve(spoke);
    }
  }
}

void TcpLink::wait_for_events() {
  std::vector<pollfd> entries{{wake_.descriptor(), POLLIN, 0}};
  {
    const std::scoped_lock lock{mutex_};
    for (const Spoke& spoke : spokes_) {
      if (!spoke.open) continue;
      const short writes = spoke.connection->wants_write() ? POLLOUT : 0;
      entries.push_back({spoke.connection->descriptor(), static_cast<short>(POLLIN | writes), 0});
    }
  }
  poll(entries.data(), entries.size(), static_cast<int>(beat_.count() / 2));
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = read(wake_.descriptor(), &count, sizeof count);
}

void TcpLink::serve(Spoke& spoke) {
  try {
    const auto now = Clock::now();
    if (!spoke.connection->fill()) {
      lose(spoke, "closed its connection: its process has ended");
      return;
    }
    handle_frames(spoke);
    if (now - spoke.connection->last_read() > silence_) {
      lose(spoke, fmt::format("was silent for {} ms: its process or its machine is stalled",
                              silence_.count()));
      return;
    }
    if (spoke.told_all) return;
    if (!spoke.connection->wants_write() && now - spoke.connection->last_write() > beat_ / 2) {
      spoke.connection->queue(FrameKind::heartbeat);
    }
    if (spoke.connection->flush()) {
      if (stopping_ && rank() != 0 && !spoke.connection->wants_write()) tell_end(spoke);
      return;
    }
    // It went between the reading and the writing; what it sent last may be a goodbye.
    while (spoke.connection->fill() && handle_frames(spoke)) {
    }
    lose(spoke, "closed its connection: its process has ended");
  } catch (const FormatError& error) {
    lose(spoke, fmt::format("broke the control plane's protocol: {}", error.what()));
  }
}

bool TcpLink::handle_frames(Spoke& spoke) {
  bool some = false;
  while (const auto frame = spoke.connection->next()) {
    handle(spoke, *frame);
    some = true;
  }
  return some;
}

void TcpLink::handle(Spoke& spoke, const Frame& frame) {
  std::string_view body = frame.body;
  switch (frame.kind) {
    case FrameKind::letter:
      forward(spoke, body);
      return;
    case FrameKind::heartbeat:
      return;
    case FrameKind::goodbye:
      spoke.leaving = true;
      return;
    case FrameKind::lost: {
      THINWIRE_EXPECTS(rank() != 0, FormatError, "news of a loss, which only rank 0 tells");
      const auto culprit = take<std::uint32_t>(body);
      THINWIRE_EXPECTS(culprit < static_cast<std::uint32_t>(size()), FormatError,
                       fmt::format("news of the loss of rank {} of {}", culprit, size()));
      set_loss({static_cast<int>(culprit), std::string{body}});
      return;
    }
    default:
      throw FormatError{fmt::format("a frame of kind {}", static_cast<int>(frame.kind))};
  }
}

void TcpLink::forward(Spoke& spoke, std::string_view body) {
  const std::string_view whole = body;
  const auto channel = take<std::uint64_t>(body);
  const auto from = take<std::uint32_t>(body);
  const auto to = take<std::uint32_t>(body);
  const auto ranks = static_cast<std::uint32_t>(size());
  THINWIRE_EXPECTS(
      from < ranks && to < ranks && from != to &&
          (rank() == 0 ? static_cast<int>(from) == spoke.rank : static_cast<int>(to) == rank()),
      FormatError, fmt::format("a letter from rank {} to rank {}", from, to));
  if (static_cast<int>(to) == rank()) {
    letters_[channel].push_back({static_cast<int>(from), std::string{body}});
    return;
  }
  Spoke& next = spoke_to(static_cast<int>(to));
  if (!next.open) return;
  next.connection->queue(FrameKind::letter, whole);
  if (!next.connection->flush()) wake();  // its own turn finds that it is gone
}

void TcpLink::lose(Spoke& spoke, std::string_view how) {
  spoke.open = false;
  if (spoke.leaving || stopping_) {
    tell_end(spoke);
    return;
  }
  const AbortNotice notice{spoke.rank, fmt::format("rank {} {}", spoke.rank, how)};
  log(LogLevel::error, fmt::format("control plane of rank {}: {}", rank(), notice.reason));
  if (rank() == 0) {
    std::string body;
    put(body, static_cast<std::uint32_t>(notice.culprit));
    body += notice.reason;
    for (Spoke& other : spokes_) {  // the lost one too: it may only have been stalled
      other.connection->queue(FrameKind::lost, body);
      other.connection->flush();
    }
  }
  set_loss(notice);
}

void TcpLink::tell_end(Spoke& spoke) {
  spoke.told_all = true;
  spoke.connection->end_writing();
}

void TcpLink::set_loss(AbortNotice notice) {
  if (!loss_) loss_ = std::move(notice);
}

}  // namespace thinwire::comm
