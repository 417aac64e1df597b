#pragma once

#include <memory>
#include <vector>

#include "../channel_control_plane.hpp"
#include "../host_group.hpp"
#include "tcp_channel.hpp"

namespace thinwire::comm {

/// The ranks of a TCP rendezvous, or some of them.
class TcpGroup final : public HostGroup {
 public:
  /// Collective: meets the other ranks.
  explicit TcpGroup(const TcpRendezvous& rendezvous);

  ControlPlane& control() override { return control_; }
  std::unique_ptr<HostGroup> split(int color, int key) override;

 private:
  TcpGroup(TcpGroup& parent, std::uint64_t number, const std::vector<int>& places);

  std::shared_ptr<TcpLink> link_;
  std::uint64_t number_;
  std::vector<int> members_;  // our ranks as the link counts them
  ChannelControlPlane control_;
  std::uint64_t splits_ = 0;
};

}  // namespace thinwire::comm
