#include "device_failure.hpp"

#include <fmt/format.h>

#include "cuda/agreement.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {

DeviceWire& wire_of(Communicator& communicator, const char* user) {
  auto* wire = dynamic_cast<DeviceWire*>(&communicator);
  THINWIRE_EXPECTS(wire != nullptr, InvalidArgument,
                   fmt::format("{} needs a communicator on GPUs (make_nccl_communicator, "
                               "make_staged_communicator); this one "
                               "is '{}'",
                               user, communicator.transport()));
  return *wire;
}

void throw_device_failure(Communicator& communicator, DeviceWire& wire, ErrorRing& errors) {
  wire.throw_failure();
  const auto error = errors.poll();
  if (!error) return;
  const auto what = error->code == cuda::disagreement
                        ? "another rank was in another call or plan of summable payloads"
                        : compress::describe(*error);
  const auto text = fmt::format("rank {}: step {}: {}", communicator.rank(), error->sequence, what);
  communicator.abort(text, error->peer);
  throw FormatError{text};
}

}  // namespace thinwire::comm
