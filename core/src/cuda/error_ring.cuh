#pragma once

#include "thinwire/core/cuda/error_ring.hpp"

namespace thinwire {

/// Called by one thread. Drops the error if the host has not yet read the one that stands there.
__device__ inline void record_error(const ErrorRing::DeviceHandle& ring, const DeviceError& error) {
  // Claims are counted in device memory: atomics over the bus to the host are not everywhere.
  volatile ErrorRing::Entry* entries = ring.entries;
  unsigned claim = atomicAdd(ring.claimed, 0u);
  for (;;) {
    if (entries[claim % ErrorRing::capacity].full != 0) return;
    const unsigned found = atomicCAS(ring.claimed, claim, claim + 1u);
    if (found == claim) break;
    claim = found;
  }
  volatile ErrorRing::Entry& entry = entries[claim % ErrorRing::capacity];
  entry.error.sequence = error.sequence;
  entry.error.code = error.code;
  entry.error.peer = error.peer;
  entry.error.expected = error.expected;
  entry.error.got = error.got;
  __threadfence_system();
  entry.full = 1;
}

}  // namespace thinwire
