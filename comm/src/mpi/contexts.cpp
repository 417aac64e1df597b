#include "contexts.hpp"

#include <algorithm>
#include <atomic>
#include <string>

#include "runtime.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

std::atomic<int>& next_context() {
  static std::atomic<int> next{1};
  return next;
}

int largest_tag() {
  void* value = nullptr;
  int found = 0;
  MpiRuntime::get().call("MPI_Comm_get_attr", MPI_Comm_get_attr, MPI_COMM_WORLD, MPI_TAG_UB,
                         static_cast<void*>(&value), &found);
  return found != 0 ? *static_cast<int*>(value) : PointToPoint::max_tag;
}

}  // namespace

int free_context() { return next_context(); }

Contexts take_contexts(int first) {
  const Contexts taken{first, first + 1};
  const int contexts = largest_tag() / (PointToPoint::max_tag + 1);
  THINWIRE_EXPECTS(
      taken.control < contexts, TransportError,
      "MPI's tags go up to " + std::to_string(largest_tag()) + ", which is enough for " +
          std::to_string(contexts / 2) +
          " splits into parts in the life of a process, and this is one more; keep and "
          "reuse communicators");
  next_context() = std::max(next_context().load(), taken.control + 1);
  return taken;
}

}  // namespace thinwire::comm
