#include <cstring>
#include <map>
#include <mutex>
#include <numeric>

#include "../comm_nccl/tcp_ranks.hpp"
#include "ranks.hpp"
#include "thinwire/comm/callback.hpp"
#include "thinwire/comm/transports.hpp"

namespace thinwire::comm::testing {
namespace {

/// Where the threads of one group leave their calls; the last to come makes the exchange.
struct Board {
  struct Call {
    const std::byte* in;
    std::vector<std::size_t> in_bytes;
    std::byte* out;
    std::vector<std::size_t> out_bytes;
    ByteExchange::Done done;
  };
  std::mutex mutex;
  std::map<std::size_t, std::map<int, Call>> calls;  // by number, then rank
  std::map<std::string, std::shared_ptr<Board>> children;
};

std::size_t before(const std::vector<std::size_t>& bytes, std::size_t end) {
  return std::accumulate(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(end),
                         std::size_t{0});
}

class BoardExchange final : public ByteExchange {
 public:
  BoardExchange(std::shared_ptr<Board> board, int rank, int size)
      : board_{std::move(board)}, rank_{rank}, size_{size} {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_to_all(ConstByteView in, std::span<const std::size_t> in_bytes, ByteView out,
                  std::span<const std::size_t> out_bytes, Done done) override {
    const std::lock_guard lock{board_->mutex};
    auto& calls = board_->calls[next_];
    calls[rank_] = {in.data,
                    {in_bytes.begin(), in_bytes.end()},
                    out.data,
                    {out_bytes.begin(), out_bytes.end()},
                    std::move(done)};
    if (calls.size() == static_cast<std::size_t>(size_)) {
      exchange(calls);
      board_->calls.erase(next_);
    }
    ++next_;
  }

  std::unique_ptr<ByteExchange> split(std::span<const int> members,
                                      const std::string& name) override {
    const std::lock_guard lock{board_->mutex};
    auto& child = board_->children[name];
    if (!child) child = std::make_shared<Board>();
    const auto place = std::find(members.begin(), members.end(), rank_) - members.begin();
    return std::make_unique<BoardExchange>(child, static_cast<int>(place),
                                           static_cast<int>(members.size()));
  }

 private:
  static void exchange(std::map<int, Board::Call>& calls) {
    std::string error;
    for (auto& [i, to] : calls) {
      for (auto& [j, from] : calls) {
        const auto a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(j);
        if (to.out_bytes[b] != from.in_bytes[a]) error = "sizes differ";
        if (!error.empty() || to.out_bytes[b] == 0) continue;
        std::memcpy(to.out + before(to.out_bytes, b), from.in + before(from.in_bytes, a),
                    to.out_bytes[b]);
      }
    }
    for (auto& [_, call] : calls) call.done(error);
  }

  std::shared_ptr<Board> board_;
  int rank_;
  int size_;
  std::size_t next_ = 0;
};

}  // namespace

std::vector<int> rank_counts() { return {1, 2, 3, 4}; }

void on_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  const auto board = std::make_shared<Board>();
  const int port = free_port();
  run_ranks(ranks, [&](Communicator& thread) {
    const auto communicator =
        make_callback_communicator(std::make_unique<BoardExchange>(board, thread.rank(), ranks),
                                   rendezvous_of(thread.rank(), ranks, port));
    body(*communicator);
  });
}

namespace {

TEST(CallbackTransport, SendAndRecv_AreRefused) {
  on_ranks(2, [](Communicator& comm) {
    std::byte data{};
    EXPECT_THROW(comm.send({&data, 1}, 1 - comm.rank()), TransportError);
    EXPECT_THROW(comm.recv({&data, 1}, 1 - comm.rank()), TransportError);
    comm.barrier()->wait(patience);
  });
}

}  // namespace
}  // namespace thinwire::comm::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
