#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../point_to_point.hpp"
#include "../tcp/tcp_link.hpp"
#include "thinwire/comm/callback.hpp"

namespace thinwire::comm {

/// A ByteExchange as a transport: the messages of a step are packed into one all-to-all. Letters of
/// the control plane go over TCP.
class CallbackTransport final : public PointToPoint {
 public:
  /// `link_ranks`: the TCP link's ranks of this transport's ranks, in order. `hosts`: which host
  /// each of them runs on, as a number. `number`: of this communicator's channel on the link.
  CallbackTransport(std::unique_ptr<ByteExchange> exchange, std::shared_ptr<TcpLink> link,
                    std::vector<int> link_ranks, std::vector<std::uint64_t> hosts,
                    std::uint64_t number);

  int rank() const override { return exchange_->rank(); }
  int size() const override { return exchange_->size(); }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  std::string_view name() const override { return "callback"; }

  bool exchanges_steps() const override { return true; }
  RequestHandle iexchange(std::span<const Transfer> transfers) override;

  Endpoint split(const Split& split) override;

 private:
  std::unique_ptr<ByteExchange> exchange_;
  std::shared_ptr<TcpLink> link_;
  const std::vector<int> link_ranks_;
  const std::vector<std::uint64_t> hosts_;
  const std::uint64_t number_;
  std::uint64_t splits_ = 0;
  int local_rank_ = 0;
  int local_size_ = 0;
};

}  // namespace thinwire::comm
