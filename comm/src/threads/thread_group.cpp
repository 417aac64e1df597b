#include "thread_group.hpp"

#include <sched.h>

#include <algorithm>
#include <cstring>

namespace thinwire::comm {
namespace {

using State = ThreadMessage::State;

class ThreadSendRequest final : public Request {
 public:
  ThreadSendRequest(std::shared_ptr<ThreadGroup> group, int to,
                    std::shared_ptr<ThreadMessage> message)
      : group_{std::move(group)}, to_{to}, message_{std::move(message)} {}

  ~ThreadSendRequest() override {
    auto expected = State::posted;
    if (!message_->state.compare_exchange_strong(expected, State::withdrawn)) {
      // The receiver has begun: our buffer is needed until its copy ends, which is soon.
      while (message_->state.load() == State::copying) sched_yield();
      return;
    }
    auto& mailbox = group_->mailbox(to_);
    const std::scoped_lock lock{mailbox.mutex};
    std::erase(mailbox.messages, message_);
  }

  bool test() override { return message_->state.load() == State::done; }

 private:
  std::shared_ptr<ThreadGroup> group_;
  int to_;
  std::shared_ptr<ThreadMessage> message_;
};

class ThreadReceiveRequest final : public Request {
 public:
  ThreadReceiveRequest(std::shared_ptr<ThreadGroup> group, int rank, ByteView data,
                       std::shared_ptr<ThreadReceive> receive)
      : group_{std::move(group)}, rank_{rank}, data_{data}, receive_{std::move(receive)} {}

  ~ThreadReceiveRequest() override {
    auto& mailbox = group_->mailbox(rank_);
    const std::scoped_lock lock{mailbox.mutex};
    std::erase(mailbox.receives, receive_);
  }

  bool test() override {
    const auto message = matched();
    if (!message) return false;
    if (message->data.size != data_.size) {
      throw UnexpectedSize{std::to_string(message->data.size)};
    }
    auto expected = State::posted;
    // A withdrawn message never comes: the abort that goes with it ends the wait.
    if (!message->state.compare_exchange_strong(expected, State::copying)) return false;
    if (data_.size != 0) std::memcpy(data_.data, message->data.data, data_.size);
    message->state.store(State::done);
    return true;
  }

 private:
  std::shared_ptr<ThreadMessage> matched() {
    const std::scoped_lock lock{group_->mailbox(rank_).mutex};
    return receive_->message;
  }

  std::shared_ptr<ThreadGroup> group_;
  int rank_;
  ByteView data_;
  std::shared_ptr<ThreadReceive> receive_;
};

/// Takes the first entry that matches (from, tag) out of a queue; null if there is none.
template <typename Entry>
std::shared_ptr<Entry> take_match(std::deque<std::shared_ptr<Entry>>& queue, int from, int tag) {
  const auto found = std::find_if(queue.begin(), queue.end(), [&](const auto& entry) {
    return entry->from == from && entry->tag == tag;
  });
  if (found == queue.end()) return nullptr;
  auto entry = *found;
  queue.erase(found);
  return entry;
}

class ThreadTransport final : public PointToPoint {
 public:
  ThreadTransport(std::shared_ptr<ThreadGroup> group, int rank)
      : group_{std::move(group)}, rank_{rank} {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  int local_rank() const override { return rank_; }
  int local_size() const override { return group_->size(); }
  std::string_view name() const override { return "threads"; }

  RequestHandle isend(ConstByteView data, int peer, int tag) override {
    auto message = std::make_shared<ThreadMessage>(rank_, tag, data);
    auto& mailbox = group_->mailbox(peer);
    {
      const std::scoped_lock lock{mailbox.mutex};
      if (const auto receive = take_match(mailbox.receives, rank_, tag)) {
        receive->message = message;
      } else {
        mailbox.messages.push_back(message);
      }
    }
    return std::make_unique<ThreadSendRequest>(group_, peer, std::move(message));
  }

  RequestHandle irecv(ByteView data, int peer, int tag) override {
    auto receive = std::make_shared<ThreadReceive>(ThreadReceive{peer, tag, nullptr});
    auto& mailbox = group_->mailbox(rank_);
    {
      const std::scoped_lock lock{mailbox.mutex};
      receive->message = take_match(mailbox.messages, peer, tag);
      if (!receive->message) mailbox.receives.push_back(receive);
    }
    return std::make_unique<ThreadReceiveRequest>(group_, rank_, data, std::move(receive));
  }

  Endpoint split(const Split& split) override {
    const auto number = splits_++;
    if (split.color < 0) return {};
    return make_thread_endpoint(
        group_->child(number, split.color, static_cast<int>(split.members.size())), split.place);
  }

 private:
  std::shared_ptr<ThreadGroup> group_;
  int rank_;
  std::uint64_t splits_ = 0;
};

class ThreadControlChannel final : public ControlChannel {
 public:
  ThreadControlChannel(std::shared_ptr<ThreadGroup> group, int rank)
      : group_{std::move(group)}, rank_{rank} {}

  void send(int to, std::string_view text) override {
    auto& mailbox = group_->mailbox(to);
    const std::scoped_lock lock{mailbox.mutex};
    mailbox.letters.push_back({rank_, std::string{text}});
  }

  std::optional<Letter> receive() override {
    auto& mailbox = group_->mailbox(rank_);
    const std::scoped_lock lock{mailbox.mutex};
    if (mailbox.letters.empty()) return std::nullopt;
    auto letter = std::move(mailbox.letters.front());
    mailbox.letters.pop_front();
    return letter;
  }

 private:
  std::shared_ptr<ThreadGroup> group_;
  int rank_;
};

}  // namespace

std::shared_ptr<ThreadGroup> ThreadGroup::child(std::uint64_t number, int color, int size) {
  const std::scoped_lock lock{mutex_};
  const auto key = std::pair{number, color};
  auto [place, is_new] = children_.try_emplace(key, Child{nullptr, size});
  if (is_new) place->second.group = std::make_shared<ThreadGroup>(size);
  auto group = place->second.group;
  if (--place->second.to_come == 0) children_.erase(place);
  return group;
}

Endpoint make_thread_endpoint(std::shared_ptr<ThreadGroup> group, int rank) {
  auto data = std::make_unique<ThreadTransport>(group, rank);
  return {std::move(data), std::make_unique<ThreadControlChannel>(std::move(group), rank)};
}

}  // namespace thinwire::comm
