#include "callback_transport.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <numeric>

#include "../tcp/tcp_channel.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::comm {
namespace {

using Clock = std::chrono::steady_clock;

/// How long an error is held back: the group that a rank has left says "connection reset", often
/// before the control plane hears of it, which names the rank.
constexpr std::chrono::seconds time_to_hear_whom{1};

/// One all-to-all under way. Shared with its callback: a request that is given up leaves buffers
/// behind that the library may still use.
struct Call {
  Buffer out, in;
  std::vector<std::size_t> out_bytes, in_bytes;  // by rank
  std::mutex mutex;                              // guards the error
  std::string error;
  Clock::time_point failed_at;
  std::atomic<bool> over{false};
};

/// An empty message is sent as one byte, so that it synchronises like any other.
std::size_t wire_bytes(const Transfer& transfer) {
  return std::max(transfer.bytes, std::size_t{1});
}

/// Visits the transfers of one way in the order in which they stand in their packed buffer: by
/// peer, then as given.
template <typename Visitor>
void for_each_packed(std::span<const Transfer> transfers, Transfer::Way way,
                     const std::vector<std::size_t>& bytes, Visitor&& visit) {
  std::vector<std::size_t> next(bytes.size());
  std::exclusive_scan(bytes.begin(), bytes.end(), next.begin(), std::size_t{0});
  for (const Transfer& transfer : transfers) {
    if (transfer.way != way) continue;
    auto& offset = next[static_cast<std::size_t>(transfer.peer)];
    visit(transfer, offset);
    offset += wire_bytes(transfer);
  }
}

std::vector<std::size_t> bytes_by_peer(std::span<const Transfer> transfers, Transfer::Way way,
                                       int size) {
  std::vector<std::size_t> bytes(static_cast<std::size_t>(size));
  for (const Transfer& transfer : transfers) {
    if (transfer.way == way) bytes[static_cast<std::size_t>(transfer.peer)] += wire_bytes(transfer);
  }
  return bytes;
}

Buffer buffer_for(const std::vector<std::size_t>& bytes) {
  return {default_memory(), std::accumulate(bytes.begin(), bytes.end(), std::size_t{0}),
          "collective"};
}

class CallbackRequest final : public Request {
 public:
  CallbackRequest(std::shared_ptr<Call> call, std::span<const Transfer> transfers)
      : call_{std::move(call)}, transfers_{transfers.begin(), transfers.end()} {}

  bool test() override {
    if (!call_->over.load(std::memory_order_acquire)) return false;
    const std::lock_guard lock{call_->mutex};
    if (!call_->error.empty()) {
      if (Clock::now() < call_->failed_at + time_to_hear_whom) return false;
      throw TransportError{call_->error};
    }
    for_each_packed(transfers_, Transfer::Way::receive, call_->in_bytes,
                    [this](const Transfer& transfer, std::size_t offset) {
                      if (transfer.bytes == 0) return;
                      std::memcpy(transfer.data, call_->in.data() + offset, transfer.bytes);
                    });
    return true;
  }

 private:
  std::shared_ptr<Call> call_;
  std::vector<Transfer> transfers_;
};

}  // namespace

CallbackTransport::CallbackTransport(std::unique_ptr<ByteExchange> exchange,
                                     std::shared_ptr<TcpLink> link, std::vector<int> link_ranks,
                                     std::vector<std::uint64_t> hosts, std::uint64_t number)
    : exchange_{std::move(exchange)},
      link_{std::move(link)},
      link_ranks_{std::move(link_ranks)},
      hosts_{std::move(hosts)},
      number_{number} {
  const auto me = hosts_.begin() + rank();
  local_rank_ = static_cast<int>(std::count(hosts_.begin(), me, *me));
  local_size_ = static_cast<int>(std::count(hosts_.begin(), hosts_.end(), *me));
}

RequestHandle CallbackTransport::iexchange(std::span<const Transfer> transfers) {
  auto call = std::make_shared<Call>();
  call->out_bytes = bytes_by_peer(transfers, Transfer::Way::send, size());
  call->in_bytes = bytes_by_peer(transfers, Transfer::Way::receive, size());
  call->out = buffer_for(call->out_bytes);
  call->in = buffer_for(call->in_bytes);
  for_each_packed(transfers, Transfer::Way::send, call->out_bytes,
                  [&](const Transfer& transfer, std::size_t offset) {
                    std::byte* place = call->out.data() + offset;
                    if (transfer.bytes == 0) *place = std::byte{0};
                    if (transfer.bytes != 0) std::memcpy(place, transfer.data, transfer.bytes);
                  });
  exchange_->all_to_all({call->out.data(), call->out.size()}, call->out_bytes,
                        {call->in.data(), call->in.size()}, call->in_bytes,
                        [call](std::string error) {
                          const std::lock_guard lock{call->mutex};
                          call->error = std::move(error);
                          call->failed_at = Clock::now();
                          call->over.store(true, std::memory_order_release);
                        });
  return std::make_unique<CallbackRequest>(std::move(call), transfers);
}

Endpoint CallbackTransport::split(const Split& split) {
  const auto number = compress::mix64(number_ + compress::mix64(++splits_) +
                                      static_cast<std::uint64_t>(std::max(split.color, 0)));
  if (split.color < 0) return {};
  std::vector<int> link_ranks;
  std::vector<std::uint64_t> hosts;
  for (const int member : split.members) {
    link_ranks.push_back(link_ranks_[static_cast<std::size_t>(member)]);
    hosts.push_back(hosts_[static_cast<std::size_t>(member)]);
  }
  auto channel = std::make_unique<TcpChannel>(link_, number, link_ranks);
  auto data = std::make_unique<CallbackTransport>(
      exchange_->split(split.members, fmt::format("{}.{}", splits_, split.color)), link_,
      std::move(link_ranks), std::move(hosts), number);
  return {std::move(data), std::move(channel)};
}

}  // namespace thinwire::comm
