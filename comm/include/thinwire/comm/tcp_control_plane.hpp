#pragma once

#include <memory>
#include <string>

#include "thinwire/comm/control_plane.hpp"

namespace thinwire::comm {

/// Where the ranks of a job meet: rank 0 listens on host and port, the others connect to it.
struct TcpRendezvous {
  int rank = 0;
  int size = 1;
  std::string host{};
  int port = 0;
  std::string secret{};  ///< the same on all ranks; never sent, both ends prove that they know it
  Timeout timeout{};     ///< of the rendezvous, and for how long a rank may be silent after it
};

/// Reads the environment: THINWIRE_MASTER_ADDR and THINWIRE_MASTER_PORT (else MASTER_ADDR and
/// MASTER_PORT + 1, else 127.0.0.1 and 29501), THINWIRE_JOB_SECRET, and rank and size from the
/// launcher's variables: RANK and WORLD_SIZE, Open MPI's, PMI's or Slurm's. Without a secret, one
/// is made of the address and the launcher's job id: that keeps jobs apart, but not intruders out.
/// Throws InvalidArgument naming what is missing or wrong.
TcpRendezvous tcp_rendezvous();

/// Collective: a control plane over TCP, star-shaped around rank 0. Ranks prove to each other that
/// they know the secret (HMAC-SHA256 over nonces of both); frames have a length cap. A thread of
/// its own sends heartbeats and forwards letters, so that a rank that dies or stalls is named as
/// the culprit of an abort within `timeout` on every other rank, whatever the ranks wait in.
///
/// Throws TimeoutError naming the ranks that did not come, TransportError when refused (another
/// secret, size or version, or a rank taken twice). The destructor of rank 0 waits until the others
/// have left too, at most `timeout` or 10 s, since their letters pass through it.
std::unique_ptr<ControlPlane> make_tcp_control_plane(const TcpRendezvous& rendezvous);

}  // namespace thinwire::comm
