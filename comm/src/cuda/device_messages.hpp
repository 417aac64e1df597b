#pragma once

#include <string>
#include <vector>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// exchange_messages over a communicator whose buffers are on a GPU. Blocks.
std::string exchange_device_messages(Communicator& communicator,
                                     const std::vector<std::string>& messages, StreamView stream);

}  // namespace thinwire::comm
