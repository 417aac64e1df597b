#include "contexts.hpp"

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

bool take_contexts(int first) {
  const int contexts = largest_tag() / (PointToPoint::max_tag + 1);
  THINWIRE_EXPECTS(
      first + 1 < contexts, TransportError,
      "MPI's tags go up to " + std::to_string(largest_tag()) + ", which is enough for " +
          std::to_string(contexts / 2) +
          " splits into parts in the life of a process, and this is one more; keep and "
          "reuse communicators");
  int next = next_context();
  while (next <= first) {
    if (next_context().compare_exchange_weak(next, first + 2)) return true;
  }
  return false;
}

}  // namespace thinwire::comm
