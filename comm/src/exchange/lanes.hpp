#pragma once

#include <memory>
#include <string_view>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// Collective: a communicator of the same ranks, whose operations run beside those of `parent`.
/// What fails on it ends `parent` at once, before transfers under way are given up: that may freeze
/// the transport.
inline std::unique_ptr<Communicator> make_lane(Communicator& parent) {
  auto lane = parent.split(0, parent.rank());
  lane->control().tie_to_parent();
  return lane;
}

/// The two orders in which exchanges are posted. Each is a communicator of its own: all ranks post
/// first exchanges in the order of submission, and second ones too, but how the two interleave
/// depends on each rank's clock.
struct Lanes {
  std::unique_ptr<Communicator> reduce;  ///< first exchanges
  std::unique_ptr<Communicator> gather;  ///< second exchanges

  /// Collective.
  explicit Lanes(Communicator& parent) : reduce{make_lane(parent)}, gather{make_lane(parent)} {}

  void abort(std::string_view reason, int culprit) noexcept {
    reduce->abort(reason, culprit);
    gather->abort(reason, culprit);
  }
};

}  // namespace thinwire::comm
