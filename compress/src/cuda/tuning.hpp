#pragma once

#include <cstdint>

/// Numbers that were measured, apart from the kernels (H200, n = 1e8).
namespace thinwire::compress::cuda {

/// Warps of a thread block; each codes a unit at a time.
constexpr int warps_per_tile = 4;
constexpr int threads_per_tile = 32 * warps_per_tile;

/// Units of a thread block. Many of them make looking up places and adding up digests cheap, but
/// then fewer thread blocks share the end of a launch: at least `tiles_wanted` if the work allows.
/// Encoding, whose registers leave room for few thread blocks, wants them to follow each other
/// soon.
constexpr std::int64_t tiles_wanted = 1400;
constexpr std::int64_t units_per_tile_at_least = warps_per_tile;
constexpr std::int64_t units_per_encode_tile_at_most = 8;
constexpr std::int64_t units_per_tile_at_most = 32;

/// Thread blocks a multiprocessor must be able to hold: bounds the registers of a thread.
constexpr int encode_tiles_per_sm = 5;
constexpr int reduce_tiles_per_sm = 4;
constexpr int decode_tiles_per_sm = 8;

}  // namespace thinwire::compress::cuda
