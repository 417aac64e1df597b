#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "handshake.hpp"
#include "thinwire/comm/control_plane.hpp"

namespace thinwire::comm {

/// This rank's end of the star: letters between any two ranks pass through rank 0. A thread of its
/// own reads, forwards, and watches that nobody falls silent. Letters are sorted by channel, one a
/// communicator, which both ends name by the same number. Thread-safe.
class TcpLink {
 public:
  struct Letter {
    int from;
    std::string text;
  };

  /// Collective: meets the other ranks. Rank 0 forwards the others' letters until they leave, and
  /// they leave when it has read all of theirs; whoever lets go of the link does not wait for that.
  static std::shared_ptr<TcpLink> open(TcpRendezvous rendezvous);
  ~TcpLink();
  TcpLink(const TcpLink&) = delete;
  TcpLink& operator=(const TcpLink&) = delete;

  int rank() const { return rendezvous_.rank; }
  int size() const { return rendezvous_.size; }

  void send(std::uint64_t channel, int to, std::string_view text);
  std::optional<Letter> receive(std::uint64_t channel);

  /// The rank whose connection broke or fell silent first, if any.
  std::optional<AbortNotice> loss();

 private:
  explicit TcpLink(TcpRendezvous rendezvous);

  /// One connection: rank 0 has one to each rank, the others have one to rank 0.
  struct Spoke {
    int rank;
    ConnectionHandle connection;
    bool open = true;
    bool leaving = false;   ///< said goodbye: its end is no failure
    bool told_all = false;  ///< nothing follows from this side
  };

  void run();
  void wait_for_events();
  void serve(Spoke& spoke);
  /// Those that have been read whole. Whether there were any.
  bool handle_frames(Spoke& spoke);
  void handle(Spoke& spoke, const Frame& frame);
  void forward(Spoke& spoke, std::string_view body);
  void tell_end(Spoke& spoke);
  void lose(Spoke& spoke, std::string_view how);
  void set_loss(AbortNotice notice);
  bool all_left() const;
  Spoke& spoke_to(int rank);
  void wake();

  const TcpRendezvous rendezvous_;
  const Timeout beat_;     // at least one frame in this time
  const Timeout silence_;  // longer than this is a loss

  std::mutex mutex_;  // guards what follows
  std::vector<Spoke> spokes_;
  std::map<std::uint64_t, std::deque<Letter>> letters_;
  std::optional<AbortNotice> loss_;
  bool stopping_ = false;
  std::chrono::steady_clock::time_point stop_deadline_;

  Socket wake_;  // an eventfd
  std::thread thread_;
};

}  // namespace thinwire::comm
