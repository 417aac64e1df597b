#include "thinwire/comm/work.hpp"

#include "thinwire/core/config.hpp"

namespace thinwire::comm {

void Work::wait() { wait(config().timeout); }

}  // namespace thinwire::comm
