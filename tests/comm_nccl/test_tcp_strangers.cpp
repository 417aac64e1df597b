// What rank 0 does with whoever does not speak the protocol.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tcp/handshake.hpp"
#include "tcp_ranks.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using ::testing::HasSubstr;
constexpr Timeout patience{20000};

Socket connect_to_port(int port) {
  return connect_to("127.0.0.1", port, std::chrono::steady_clock::now() + patience);
}

void send_bytes(int descriptor, std::string_view bytes) {
  [[maybe_unused]] const auto sent = ::send(descriptor, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

/// Two ranks meet although `stranger` came first; then they exchange something.
void expect_ranks_meet_despite(const std::function<void(int port)>& stranger) {
  const int port = free_port();
  run_tcp_threads(2, [&](int rank) {
    if (rank == 1) stranger(port);
    const auto control = make_tcp_control_plane(rendezvous_of(rank, 2, port));
    EXPECT_EQ(control->all_gather(std::to_string(rank), patience)[1], "1");
  });
}

TEST(TcpHandshake, AnotherSecret_IsRefusedAndSaidWhy) {
  expect_ranks_meet_despite([](int port) {
    auto intruder = rendezvous_of(1, 2, port);
    intruder.secret = "a guess";
    try {
      make_tcp_control_plane(intruder);
      ADD_FAILURE() << "a stranger was let in";
    } catch (const TransportError& error) {
      EXPECT_THAT(error.what(), HasSubstr("THINWIRE_JOB_SECRET"));
    }
  });
}

TEST(TcpHandshake, RandomBytes_AreTurnedAway) {
  expect_ranks_meet_despite([](int port) {
    std::mt19937 random{7};
    for (int i = 0; i < 30; ++i) {
      const Socket socket = connect_to_port(port);
      std::string bytes(1 + random() % 300, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      send_bytes(socket.descriptor(), bytes);
    }
  });
}

TEST(TcpHandshake, OversizedFrame_IsTurnedAwayAtItsLength) {
  expect_ranks_meet_despite([](int port) {
    const Socket socket = connect_to_port(port);
    send_bytes(socket.descriptor(), "\xff\xff\xff\xff\x01");
    char byte = 0;
    while (recv(socket.descriptor(), &byte, 1, 0) < 0 && errno == EAGAIN) {
      std::this_thread::sleep_for(Timeout{1});
    }  // rank 0 closed the connection
  });
}

TEST(TcpHandshake, MoreSilentConnectionsThanAllowed_DoNotKeepRanksOut) {
  std::vector<Socket> open;
  expect_ranks_meet_despite([&](int port) {
    for (int i = 0; i < 80; ++i) open.push_back(connect_to_port(port));
  });
}

TEST(TcpHandshake, ReplayedProof_IsRefused) {
  // A proof is bound to the hub's nonce: what was good in one handshake is not in another.
  expect_ranks_meet_despite([](int port) {
    const auto shake = [port](std::string_view proof) {
      FramedConnection connection{connect_to_port(port), 256};
      std::string hello;
      put(hello, std::uint32_t{0x50435754u});
      put(hello, std::uint32_t{1});
      put(hello, std::uint32_t{1});
      put(hello, std::uint32_t{2});
      hello += "sixteen bytes ..";
      connection.queue(FrameKind::hello, hello);
      connection.queue(FrameKind::proof, proof);
      connection.flush();
      std::vector<FrameKind> answers;
      while (connection.fill()) {
        while (const auto frame = connection.next()) answers.push_back(frame->kind);
        std::this_thread::sleep_for(Timeout{1});
      }
      return answers;
    };
    EXPECT_THAT(shake(std::string(32, 'x')),
                ::testing::ElementsAre(FrameKind::challenge, FrameKind::refused));
  });
}

TEST(TcpHandshake, HubWithAnotherSecret_IsNotTrusted) {
  const int port = free_port();
  run_tcp_threads(2, [&](int rank) {
    auto rendezvous = rendezvous_of(rank, 2, port, Timeout{500});
    if (rank == 0) rendezvous.secret = "another";
    EXPECT_THROW(make_tcp_control_plane(rendezvous), TransportError);
  });
}

TEST(TcpHandshake, MissingRank_IsNamedOnRank0AndToldToTheOthers) {
  const int port = free_port();
  run_tcp_threads(2, [&](int rank) {
    try {
      make_tcp_control_plane(rendezvous_of(rank, 3, port, Timeout{2000}));
      ADD_FAILURE() << "rank 2 of 3 was not missed";
    } catch (const TimeoutError& error) {
      if (rank == 0) {
        EXPECT_EQ(error.peer, 2);
      }
    }
  });
}

TEST(TcpHandshake, RanksOfAnotherCount_AreRefused) {
  const int port = free_port();
  run_tcp_threads(2, [&](int rank) {
    EXPECT_THROW(make_tcp_control_plane(rendezvous_of(rank, 2 + rank, port, Timeout{2000})),
                 TransportError);
  });
}

TEST(TcpHandshake, NobodyListens_TimesOutWithTheWayOut) {
  try {
    make_tcp_control_plane(rendezvous_of(1, 2, free_port(), Timeout{200}));
    ADD_FAILURE() << "connected to nobody";
  } catch (const TimeoutError& error) {
    EXPECT_THAT(error.what(), HasSubstr("THINWIRE_MASTER_ADDR"));
    EXPECT_EQ(error.peer, 0);
  }
}

/// A rank that knows the secret and then sends `bytes`: it must be named, and nothing else happen.
void expect_member_that_sends_is_named(const std::string& bytes) {
  const int port = free_port();
  run_tcp_threads(3, [&](int rank) {
    if (rank == 2) {
      const auto connection = join_rank_0(rendezvous_of(rank, 3, port));
      send_bytes(connection->descriptor(), bytes);
      while (connection->fill()) std::this_thread::sleep_for(Timeout{1});
      return;
    }
    const auto control = make_tcp_control_plane(rendezvous_of(rank, 3, port));
    try {
      control->all_gather("", patience);
      ADD_FAILURE() << "rank 2 was believed";
    } catch (const AbortedError& error) {
      EXPECT_EQ(error.peer, 2);
      EXPECT_THAT(error.what(), HasSubstr("protocol"));
    }
  });
}

std::string frame(FrameKind kind, std::string_view body) {
  std::string bytes;
  put(bytes, static_cast<std::uint32_t>(body.size() + 1));
  put(bytes, kind);
  return bytes.append(body);
}

std::string letter(std::uint32_t from, std::uint32_t to) {
  std::string body;
  put(body, std::uint64_t{0});
  put(body, from);
  put(body, to);
  return frame(FrameKind::letter, body);
}

TEST(TcpLink, FrameOverTheCap_IsRefusedBeforeItsBytes) {
  expect_member_that_sends_is_named("\xff\xff\xff\x7f\x07");
}
TEST(TcpLink, EmptyFrame_IsRefused) { expect_member_that_sends_is_named(std::string(4, '\0')); }
TEST(TcpLink, UnknownKind_IsRefused) {
  expect_member_that_sends_is_named(frame(static_cast<FrameKind>(99), ""));
}
TEST(TcpLink, ShortLetter_IsRefused) {
  expect_member_that_sends_is_named(frame(FrameKind::letter, "short"));
}
TEST(TcpLink, LetterInAnothersName_IsRefused) { expect_member_that_sends_is_named(letter(1, 0)); }
TEST(TcpLink, LetterToARankBeyondTheLast_IsRefused) {
  expect_member_that_sends_is_named(letter(2, 4000000000u));
}
TEST(TcpLink, NewsOfALossFromAMember_IsRefused) {
  expect_member_that_sends_is_named(frame(FrameKind::lost, std::string(4, '\0')));
}

}  // namespace
}  // namespace thinwire::comm
