#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "thinwire/core/worker_pool.hpp"

/// What the memory of this machine can do, measured with the bench's own loops.
namespace thinwire::bench {

/// Bytes an element of floor_pass: reads g and e, writes e and one bit.
constexpr double floor_pass_bytes = 12.125;

/// Variants of floor_pass: without software prefetch and with some distances. The fastest counts.
constexpr int floor_passes = 4;

/// e += g (or e -= g, to come back), and the sign bits of e to `bits` (n / 8 bytes): vectorised, in
/// place, on all threads of the pool, with the SIMD target of the moment. Arrays are aligned to 64
/// bytes, sizes a multiple of 64.
void floor_pass(int variant, WorkerPool& pool, std::span<const float> g, std::span<float> e,
                std::span<std::byte> bits, bool subtract);

/// Fills `to`, as aligned and sized as above: past the caches, or by plain stores to lines that are
/// fetched ahead.
void fill_pass(bool streamed, WorkerPool& pool, std::span<float> to);

}  // namespace thinwire::bench
