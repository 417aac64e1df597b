#include "handshake.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/random.h>

#include <algorithm>
#include <list>
#include <utility>

#include "sha256.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t protocol_magic = 0x50435754u;  // "TWCP" in memory
constexpr std::uint32_t protocol_version = 1;
constexpr std::size_t nonce_bytes = 16;
constexpr std::size_t hello_bytes = 16 + nonce_bytes;
constexpr std::size_t handshake_cap = 256;  // the longest frame before the start
constexpr std::size_t most_strangers = 64;  // open connections that have not proved anything
constexpr Timeout stranger_time{5000};      // for the whole of a handshake
constexpr Timeout grace{1000};  // rank 0's word about who is missing comes after its own wait

enum class Refusal : char { secret = 1, version = 2, size = 3, rank = 4, missing = 5 };

std::string_view meaning(Refusal refusal) {
  switch (refusal) {
    case Refusal::secret:
      return "the job secret is another one; set THINWIRE_JOB_SECRET to the same value on all "
             "ranks";
    case Refusal::version:
      return "it runs another version of thinwire";
    case Refusal::size:
      return "it counts another number of ranks";
    case Refusal::rank:
      return "another process already has this rank";
    case Refusal::missing:
      return "some rank did not come in time";
  }
  return "no reason that this version knows";
}

std::string make_nonce() {
  std::string nonce(nonce_bytes, '\0');
  THINWIRE_EXPECTS(getrandom(nonce.data(), nonce.size(), 0) == static_cast<ssize_t>(nonce.size()),
                   TransportError, "the system gives no random numbers");
  return nonce;
}

std::string make_proof(std::string_view secret, std::string_view who, std::string_view hello,
                       std::string_view challenge) {
  const auto digest = hmac_sha256(secret, fmt::format("thinwire {} {}{}", who, hello, challenge));
  return std::string{text_of(digest)};
}

void refuse(FramedConnection& connection, Refusal refusal) {
  const char code = static_cast<char>(refusal);
  connection.queue(FrameKind::refused, {&code, 1});
  connection.flush();
}

/// Somebody who connected to rank 0 and has not proved anything yet.
struct Stranger {
  ConnectionHandle connection;
  Clock::time_point deadline;
  std::string hello{};
  std::string challenge{};
};

class Reception {
 public:
  explicit Reception(const TcpRendezvous& rendezvous)
      : rendezvous_{rendezvous},
        deadline_{Clock::now() + rendezvous.timeout},
        listener_{listen_on(rendezvous.host, rendezvous.port)},
        ranks_(static_cast<std::size_t>(rendezvous.size)) {}

  std::vector<ConnectionHandle> run() {
    while (!missing().empty()) {
      if (Clock::now() >= deadline_) give_up();
      wait();
      while (Socket socket = accept_from(listener_)) {
        // All ranks may come at once; whoever else comes shall not fill the memory.
        if (strangers_.size() == most_strangers + ranks_.size()) strangers_.pop_front();
        strangers_.push_back({std::make_unique<FramedConnection>(std::move(socket), handshake_cap),
                              Clock::now() + std::min(stranger_time, rendezvous_.timeout)});
      }
      strangers_.remove_if([this](Stranger& stranger) { return !serve(stranger); });
    }
    for (std::size_t rank = 1; rank < ranks_.size(); ++rank) {
      ranks_[rank]->queue(FrameKind::start);
      ranks_[rank]->flush();
    }
    return std::move(ranks_);
  }

 private:
  std::vector<std::size_t> missing() const {
    std::vector<std::size_t> missing;
    for (std::size_t rank = 1; rank < ranks_.size(); ++rank) {
      if (!ranks_[rank]) missing.push_back(rank);
    }
    return missing;
  }

  [[noreturn]] void give_up() {
    for (const auto& connection : ranks_) {
      if (connection) refuse(*connection, Refusal::missing);
    }
    const auto late = missing();
    throw TimeoutError{fmt::format("rank 0 waited {} ms on {} port {} for rank {}; did all start, "
                                   "with the same address, port and THINWIRE_JOB_SECRET?{}",
                                   rendezvous_.timeout.count(), rendezvous_.host, rendezvous_.port,
                                   fmt::join(late, ", "), turned_away_),
                       static_cast<int>(late.front())};
  }

  void wait() {
    std::vector<pollfd> entries{{listener_.descriptor(), POLLIN, 0}};
    for (const auto& stranger : strangers_) {
      entries.push_back({stranger.connection->descriptor(), POLLIN, 0});
    }
    poll(entries.data(), entries.size(), 50);
  }

  /// False: nothing more to do with this one.
  bool serve(Stranger& stranger) {
    try {
      if (Clock::now() >= stranger.deadline || !stranger.connection->fill()) return false;
      while (stranger.connection) {
        const auto frame = stranger.connection->next();
        if (!frame) return true;
        if (!answer(stranger, *frame)) return false;
      }
      return false;  // it is one of the ranks now
    } catch (const FormatError& error) {
      turn_away(error.what());
      return false;
    }
  }

  bool answer(Stranger& stranger, const Frame& frame) {
    if (frame.kind == FrameKind::hello && stranger.hello.empty()) {
      std::string_view body = frame.body;
      if (body.size() != hello_bytes || take<std::uint32_t>(body) != protocol_magic ||
          take<std::uint32_t>(body) != protocol_version) {
        refuse(*stranger.connection, Refusal::version);
        turn_away("another protocol");
        return false;
      }
      stranger.hello = frame.body;
      stranger.challenge = make_nonce();
      stranger.connection->queue(FrameKind::challenge, stranger.challenge);
      return stranger.connection->flush();
    }
    if (frame.kind == FrameKind::proof && !stranger.hello.empty()) {
      return take_proof(stranger, frame.body);
    }
    turn_away("frames out of order");
    return false;
  }

  bool take_proof(Stranger& stranger, std::string_view proof) {
    const auto expected =
        make_proof(rendezvous_.secret, "rank", stranger.hello, stranger.challenge);
    if (!equal_in_constant_time(proof, expected)) {
      refuse(*stranger.connection, Refusal::secret);
      turn_away("another job secret");
      return false;
    }
    std::string_view numbers = std::string_view{stranger.hello}.substr(8);
    const auto rank = take<std::uint32_t>(numbers);
    const auto size = take<std::uint32_t>(numbers);
    if (size != ranks_.size()) {
      refuse(*stranger.connection, Refusal::size);
      throw TransportError{
          fmt::format("rank {} counts {} ranks, rank 0 counts {}", rank, size, ranks_.size()),
          static_cast<int>(rank)};
    }
    if (rank == 0 || rank >= size || ranks_[rank]) {
      refuse(*stranger.connection, Refusal::rank);
      turn_away(fmt::format("a second rank {}", rank));
      return false;
    }
    stranger.connection->queue(FrameKind::welcome, make_proof(rendezvous_.secret, "hub",
                                                              stranger.hello, stranger.challenge));
    if (!stranger.connection->flush()) return false;
    ranks_[rank] = std::move(stranger.connection);
    return true;
  }

  void turn_away(std::string_view why) {
    const auto level = turned_away_.empty() ? LogLevel::warning : LogLevel::debug;  // no floods
    log(level, fmt::format("control plane: a connection was turned away: {}", why));
    turned_away_ = fmt::format(" Last connection that was turned away: {}.", why);
  }

  const TcpRendezvous& rendezvous_;
  Clock::time_point deadline_;
  Socket listener_;
  std::vector<ConnectionHandle> ranks_;
  std::list<Stranger> strangers_;
  std::string turned_away_;
};

/// Blocks for the next frame, which must be `expected`.
Frame await(FramedConnection& connection, FrameKind expected, const TcpRendezvous& rendezvous,
            Clock::time_point deadline) {
  const auto context = fmt::format("rank {}: rendezvous with rank 0 on {} port {}", rendezvous.rank,
                                   rendezvous.host, rendezvous.port);
  for (;;) {
    if (auto frame = connection.next()) {
      if (frame->kind == expected) return std::move(*frame);
      THINWIRE_EXPECTS(
          frame->kind == FrameKind::refused && frame->body.size() == 1, FormatError,
          fmt::format("{}: unexpected frame of kind {}", context, static_cast<int>(frame->kind)));
      const auto refusal = static_cast<Refusal>(frame->body[0]);
      const auto text = fmt::format("{}: refused: {}", context, meaning(refusal));
      if (refusal == Refusal::missing) throw TimeoutError{text};
      throw TransportError{text, rendezvous.rank};
    }
    const auto left = std::chrono::ceil<Timeout>(deadline - Clock::now());
    THINWIRE_EXPECTS(left > Timeout{0}, TimeoutError,
                     fmt::format("{} timed out after {} ms; is what listens there rank 0 of this "
                                 "job, and did all ranks start?",
                                 context, rendezvous.timeout.count()));
    pollfd entry{connection.descriptor(), POLLIN, 0};
    poll(&entry, 1, static_cast<int>(std::min(left, Timeout{100}).count()));
    THINWIRE_EXPECTS(connection.fill(), TransportError,
                     fmt::format("{}: the connection was closed", context));
  }
}

}  // namespace

std::vector<ConnectionHandle> receive_ranks(const TcpRendezvous& rendezvous) {
  return Reception{rendezvous}.run();
}

ConnectionHandle join_rank_0(const TcpRendezvous& rendezvous) {
  const auto deadline = Clock::now() + rendezvous.timeout;
  auto connection = std::make_unique<FramedConnection>(
      connect_to(rendezvous.host, rendezvous.port, deadline), handshake_cap);
  std::string hello;
  put(hello, protocol_magic);
  put(hello, protocol_version);
  put(hello, static_cast<std::uint32_t>(rendezvous.rank));
  put(hello, static_cast<std::uint32_t>(rendezvous.size));
  hello += make_nonce();
  connection->queue(FrameKind::hello, hello);
  connection->flush();
  const auto challenge = await(*connection, FrameKind::challenge, rendezvous, deadline).body;
  connection->queue(FrameKind::proof, make_proof(rendezvous.secret, "rank", hello, challenge));
  connection->flush();
  const auto welcome = await(*connection, FrameKind::welcome, rendezvous, deadline).body;
  THINWIRE_EXPECTS(
      equal_in_constant_time(welcome, make_proof(rendezvous.secret, "hub", hello, challenge)),
      TransportError,
      fmt::format("rank {}: what listens on {} port {} does not know the job secret",
                  rendezvous.rank, rendezvous.host, rendezvous.port));
  await(*connection, FrameKind::start, rendezvous, deadline + grace);
  return connection;
}

}  // namespace thinwire::comm
