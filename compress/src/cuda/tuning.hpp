#pragma once

/// Numbers that were measured, apart from the kernels (H200, n = 1e8; docs/benchmarks.md).
namespace thinwire::compress::cuda {

/// Warps of a thread block; each codes a unit at a time.
constexpr int warps_per_tile = 8;
constexpr int threads_per_tile = 32 * warps_per_tile;

/// Units of a thread block: many where there is enough work for the whole GPU, so that looking up
/// places and adding up digests costs little; one a warp where there is not.
constexpr int units_per_large_tile = 32;
constexpr int units_per_small_tile = 8;
constexpr unsigned large_section_units = 16384;

/// Thread blocks a multiprocessor must be able to hold: bounds the registers of a thread.
constexpr int encode_tiles_per_sm = 3;
constexpr int reduce_tiles_per_sm = 2;
constexpr int decode_tiles_per_sm = 6;

}  // namespace thinwire::compress::cuda
