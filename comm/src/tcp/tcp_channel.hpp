#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "../point_to_point.hpp"
#include "tcp_link.hpp"

namespace thinwire::comm {

/// The letters of one communicator over the job's one link.
class TcpChannel final : public ControlChannel {
 public:
  /// `members`: the link's ranks of this channel's ranks, in order. `number`: of the channel.
  TcpChannel(std::shared_ptr<TcpLink> link, std::uint64_t number, std::vector<int> members);

  void send(int to, std::string_view text) override;

  /// A lost rank cannot tell that it is lost: the link's news of it comes as its abort letter,
  /// once.
  std::optional<Letter> receive() override;

 private:
  std::optional<int> place_of(int link_rank) const;

  std::shared_ptr<TcpLink> link_;
  std::uint64_t number_;
  std::vector<int> members_;
  bool told_of_loss_ = false;
};

}  // namespace thinwire::comm
