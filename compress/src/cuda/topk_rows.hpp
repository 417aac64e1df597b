#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/tuning.hpp"

/// Tables and scratch memory of topk. Plain numbers, the same on host and device.
namespace thinwire::compress::cuda {

/// An element that may be sent.
struct TopkCandidate {
  std::uint32_t place;  ///< unit of the run << 10 | index in the unit
  float x;
};
constexpr int topk_place_bits = 10;

constexpr std::uint32_t topk_no_room = 0xFFFFFFFFu;

/// What a selection learns about one unit.
struct TopkUnit {
  std::uint32_t first;  ///< of its candidates; topk_no_room if they are not stored
  std::uint32_t candidates;
  std::uint32_t above;  ///< keys over the cut; in the end, index of its first entry
  std::uint32_t ties;   ///< keys on the cut; in the end, how many of them are taken
};
static_assert(sizeof(TopkUnit) == 16);

struct TopkControl {
  std::uint32_t threshold;   ///< candidates are over it
  std::uint32_t crowded;     ///< candidates of units with more than a segment, stored or not
  std::uint32_t non_finite;  ///< 1 if some block of positions is
  std::uint32_t sampled;     ///< thread blocks that have sampled; 0 between calls
  std::uint32_t arrived;     ///< at the barriers of the selection
};

constexpr int topk_digits = 3;               ///< of a key: 11, 10 and 10 bits
constexpr int topk_looks = topk_digits + 3;  ///< at keys: one a digit, a second first one, two near
constexpr int topk_bins = 2048;

/// Memory of one run's selection. Valid from one launch of a verb to its last.
struct TopkScratch {
  TopkControl* control;
  std::uint32_t* sample;      ///< [topk_bins], zero between calls
  std::uint32_t* keys;        ///< the sampled keys
  std::uint32_t* digits;      ///< [topk_looks][topk_bins]
  std::uint32_t* non_finite;  ///< by block of positions
  std::uint64_t* totals;      ///< by thread block: keys over the cut << 32 | keys on it
  TopkUnit* units;
  TopkCandidate* candidates;  ///< a segment a unit, then those of crowded units
  std::uint32_t room;         ///< for candidates of crowded units
  std::uint32_t* touched;     ///< owner: by piece, 1 if a rank sent an entry for it
  float* x;                   ///< owner without feedback: by position
};

/// A run of topk in one shard; all zero if the shard has none.
struct TopkRow {
  std::uint64_t offset[2];  ///< in the slot, by phase
  std::int64_t elements;
  std::uint32_t entries[2];  ///< capacity, by phase
  std::uint32_t first_piece;
  std::uint32_t pieces;
  std::uint32_t first_unit;
  std::uint32_t units;
  std::uint32_t first_tile;
  std::uint32_t tiles;
  std::uint32_t wanted;         ///< candidates that the threshold should let through; 0: all keys
  std::uint32_t segment;        ///< candidates of a unit that have a place of their own; even
  std::uint32_t first_arrival;  ///< of the thread blocks of its selection, see Gathered
  TopkScratch scratch;
};

/// The runs of one section.
struct TopkView {
  const TopkRow* rows;          ///< by shard
  std::uint32_t blocks;         ///< thread blocks that select together, a run
  std::uint32_t sample_blocks;  ///< thread blocks that sample, a run
};

}  // namespace thinwire::compress::cuda
