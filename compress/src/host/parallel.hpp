#pragma once

#include <cstddef>
#include <cstdint>

#include "fp_environment.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire::compress {

/// Calls body(i) for i in [0, count) on the threads of `pool`, with the arithmetic of the wire
/// format. Allocates nothing.
template <typename Body>
void parallel_items(WorkerPool& pool, std::size_t count, const Body& body) {
  pool.parallel_for(static_cast<std::int64_t>(count), [&body](std::int64_t i) {
    const FpEnvironment environment;
    body(static_cast<std::size_t>(i));
  });
}

}  // namespace thinwire::compress
