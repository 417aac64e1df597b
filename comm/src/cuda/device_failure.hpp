#pragma once

#include "device_wire.hpp"
#include "thinwire/core/cuda/error_ring.hpp"

namespace thinwire::comm {

/// Throws what ended the communicator, or what a kernel found wrong, which ends it on every rank.
/// Does not block.
void throw_device_failure(Communicator& communicator, DeviceWire& wire, ErrorRing& errors);

}  // namespace thinwire::comm
