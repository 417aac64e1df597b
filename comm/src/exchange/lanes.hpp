#pragma once

#include <memory>
#include <string_view>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// The two orders in which exchanges are posted. Each is a communicator of its own: all ranks post
/// first exchanges in the order of submission, and second ones too, but how the two interleave
/// depends on each rank's clock.
struct Lanes {
  std::unique_ptr<Communicator> reduce;  ///< first exchanges
  std::unique_ptr<Communicator> gather;  ///< second exchanges

  /// Collective.
  explicit Lanes(Communicator& parent)
      : reduce{parent.split(0, parent.rank())}, gather{parent.split(0, parent.rank())} {}

  void abort(std::string_view reason, int culprit) noexcept {
    reduce->abort(reason, culprit);
    gather->abort(reason, culprit);
  }
};

}  // namespace thinwire::comm
