#pragma once

#include <cmath>
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
constexpr std::int64_t units_per_decode_tile_at_most = 16;
constexpr std::int64_t units_per_tile_at_most = 32;

/// Thread blocks a multiprocessor must be able to hold: bounds the registers of a thread.
constexpr int encode_tiles_per_sm = 5;
constexpr int reduce_tiles_per_sm = 4;
constexpr int decode_tiles_per_sm = 8;

// ---- topk ----

/// Threads of the thread blocks that select or sample.
constexpr int select_threads = 1024;

/// Units for each thread block of a selection, which has at most one a multiprocessor.
constexpr std::int64_t units_per_select_block = 256;

/// The sample: neighbours at a place, and places.
constexpr int sample_run = 16;
constexpr std::uint32_t most_sample_places = 1024;
constexpr std::uint32_t sample_places_per_unit = 32;

/// How many candidates are wanted for k entries of n elements: four standard deviations of the
/// sample more at a density of 1 %, and so many that some 50 of it are over the threshold.
constexpr double candidates_per_entry = 1.35;
constexpr double candidates_per_element = 0.003;

/// Candidates of a unit that have a place of their own, by how many it has in the mean: nearly
/// always enough if they are spread evenly. At most as many as a warp has lanes.
inline std::uint32_t candidate_segment(double mean) {
  if (mean > 20.0) return 0;
  const double most = mean + 2.5 * std::sqrt(mean) + 3.0;
  return most > 32.0 ? 32 : (static_cast<std::uint32_t>(most) + 1) / 2 * 2;
}
/// Up to here all keys are candidates.
constexpr std::int64_t unsampled_elements = 8192;

/// Thread blocks that look for the pieces that got an entry.
constexpr std::uint32_t touched_blocks = 64;

}  // namespace thinwire::compress::cuda
