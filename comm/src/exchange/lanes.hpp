#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"

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

/// Collective where it makes them: the shared lanes, or an operation's own for null.
inline std::shared_ptr<Lanes> take_lanes(Communicator& parent, SharedLanes* shared) {
  if (shared == nullptr) return std::make_shared<Lanes>(parent);
  if (*shared == nullptr) *shared = std::make_shared<Lanes>(parent);
  return *shared;
}

/// The same for an operation of one exchange.
inline std::shared_ptr<Communicator> take_lane(Communicator& parent, SharedLanes* shared) {
  if (shared == nullptr) return make_lane(parent);
  auto lanes = take_lanes(parent, shared);
  auto* const lane = lanes->reduce.get();
  return {std::move(lanes), lane};
}

}  // namespace thinwire::comm
