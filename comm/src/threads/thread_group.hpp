#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "point_to_point.hpp"

namespace thinwire::comm {

/// One message between two threads. The sender's buffer is read by the receiver, so there is one
/// copy and nothing in between; the message is done when it has been copied.
struct ThreadMessage {
  enum class State { posted, copying, done, withdrawn };

  ThreadMessage(int from_, int tag_, ConstByteView data_) : from{from_}, tag{tag_}, data{data_} {}

  int from;
  int tag;
  ConstByteView data;
  std::atomic<State> state{State::posted};
};

/// A receive that is open. Matched with its message when the later of the two is posted, so that
/// the order of calls decides and not the order of tests.
struct ThreadReceive {
  int from;
  int tag;
  std::shared_ptr<ThreadMessage> message;  ///< null until matched
};

/// What has been sent to one rank or is awaited by it, and is not matched yet.
struct ThreadMailbox {
  std::mutex mutex;  // guards all members, and ThreadReceive::message of this rank's receives
  std::deque<std::shared_ptr<ThreadMessage>> messages;
  std::deque<std::shared_ptr<ThreadReceive>> receives;
  std::deque<ControlChannel::Letter> letters;
};

/// What the ranks of one communicator share. Lives until the last of them is gone.
struct ThreadGroup {
  explicit ThreadGroup(int size) : mailboxes(static_cast<std::size_t>(size)) {}

  int size() const { return static_cast<int>(mailboxes.size()); }
  ThreadMailbox& mailbox(int rank) { return mailboxes[static_cast<std::size_t>(rank)]; }

  /// The group that the ranks of `color` form in split number `number`: made by the first of its
  /// `size` members that asks, forgotten with the last.
  std::shared_ptr<ThreadGroup> child(std::uint64_t number, int color, int size);

  std::vector<ThreadMailbox> mailboxes;

 private:
  struct Child {
    std::shared_ptr<ThreadGroup> group;
    int to_come;
  };
  std::mutex mutex_;  // guards children_
  std::map<std::pair<std::uint64_t, int>, Child> children_;
};

/// Rank `rank` of `group`, to make a communicator of.
Endpoint make_thread_endpoint(std::shared_ptr<ThreadGroup> group, int rank);

}  // namespace thinwire::comm
