#pragma once

#include <memory>
#include <vector>

#include "thinwire/comm/control_plane.hpp"

namespace thinwire::comm {

/// The host side of a communicator whose data moves elsewhere (NCCL): its control plane, and groups
/// of some of its ranks.
class HostGroup {
 public:
  virtual ~HostGroup() = default;

  virtual ControlPlane& control() = 0;

  /// Collective, as Communicator::split. The parent must outlive the child.
  virtual std::unique_ptr<HostGroup> split(int color, int key) = 0;
};

/// What the ranks of a split agree in.
struct SplitGroup {
  std::vector<int> members;  ///< of this rank's color, ordered by key, then by rank; or empty
  int number = 0;            ///< the highest that a member has proposed
};

/// Collective: who shares this rank's color, as ranks of `control`. Nobody, for a negative color.
SplitGroup agree_on_split(ControlPlane& control, int color, int key, int number = 0);

}  // namespace thinwire::comm
