#include "tcp_channel.hpp"

#include <algorithm>

#include "../channel_control_plane.hpp"

namespace thinwire::comm {

TcpChannel::TcpChannel(std::shared_ptr<TcpLink> link, std::uint64_t number,
                       std::vector<int> members)
    : link_{std::move(link)}, number_{number}, members_{std::move(members)} {}

std::optional<int> TcpChannel::place_of(int link_rank) const {
  const auto found = std::find(members_.begin(), members_.end(), link_rank);
  if (found == members_.end()) return std::nullopt;
  return static_cast<int>(found - members_.begin());
}

void TcpChannel::send(int to, std::string_view text) {
  link_->send(number_, members_[static_cast<std::size_t>(to)], text);
}

std::optional<ControlChannel::Letter> TcpChannel::receive() {
  while (auto letter = link_->receive(number_)) {
    if (const auto from = place_of(letter->from)) return Letter{*from, std::move(letter->text)};
  }
  if (told_of_loss_) return std::nullopt;
  const auto loss = link_->loss();
  if (!loss) return std::nullopt;
  told_of_loss_ = true;
  const auto culprit = place_of(loss->culprit);
  if (!culprit) return std::nullopt;  // not one of us; the parent's control plane has the news
  return Letter{*culprit, make_abort_letter({*culprit, loss->reason})};
}

}  // namespace thinwire::comm
