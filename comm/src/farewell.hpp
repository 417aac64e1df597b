#pragma once

#include <functional>

namespace thinwire::comm {

/// Makes a call that returns only when other ranks have come to their end too, such as
/// ncclCommDestroy, on a thread of its own, and waits 200 ms for it at most: garbage collectors of
/// several processes have no common hour. The end of the process waits 10 s for the calls that are
/// still under way. `last` owns all that it uses, and does not throw.
void bid_farewell(std::function<void()> last);

}  // namespace thinwire::comm
