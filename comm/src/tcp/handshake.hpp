#pragma once

#include <memory>
#include <vector>

#include "framed_connection.hpp"
#include "thinwire/comm/tcp_control_plane.hpp"

namespace thinwire::comm {

using ConnectionHandle = std::unique_ptr<FramedConnection>;

/// Rank 0: listens until every other rank has proved that it knows the secret; element r is the
/// connection to rank r, element 0 is null. Strangers are turned away and do not stop it. Throws
/// TimeoutError naming the ranks that are missing; those that came are told.
std::vector<ConnectionHandle> receive_ranks(const TcpRendezvous& rendezvous);

/// The other ranks: connects to rank 0, proves, checks rank 0's proof and waits for the start.
ConnectionHandle join_rank_0(const TcpRendezvous& rendezvous);

}  // namespace thinwire::comm
