#pragma once

#include "point_to_point.hpp"

namespace thinwire::comm {

/// Transports on one MPI communicator keep their messages apart by contexts, the upper bits of the
/// tags. Context 0 is that of whoever has the MPI communicator to itself; none is used twice, so
/// that a late message (an abort notice) finds nobody.
constexpr int tag_in(int context, int tag) { return context * (PointToPoint::max_tag + 1) + tag; }

/// The first that this process has not taken: what it proposes to the other members.
int free_context();

/// Takes two, `first` and the next: of a transport's data and of its control channel. False if this
/// process has taken one of them. Throws TransportError when MPI has no such tags (MPI_TAG_UB).
/// Thread-safe.
bool take_contexts(int first);

}  // namespace thinwire::comm
