#pragma once

#include <cstdint>
#include <vector>

#include "cuda/rows.hpp"
#include "cuda/topk_rows.hpp"
#include "thinwire/compress/plan.hpp"

namespace thinwire::compress::cuda {

/// The tiles of one section in a chunk.
struct SectionTiles {
  std::uint32_t section;
  std::vector<std::uint32_t> first_tile;  ///< by shard, and one past the end
  std::vector<TopkRow> topk;  ///< by shard, of a topk section; scratch is filled in later
  TopkView topk_view{};       ///< the same for kernels

  std::uint32_t tiles() const { return first_tile.back() - first_tile.front(); }
};

template <typename Row>
struct RowsByShard {
  std::vector<Row> rows;
  std::vector<std::uint32_t> first{0};

  void end_shard() { first.push_back(static_cast<std::uint32_t>(rows.size())); }
};

/// The rows of one chunk and verb on the host, built from the plan.
struct ChunkTables {
  std::vector<PieceRow> pieces;  ///< section by section, with sentinels after each
  std::vector<TileRow> tiles;
  std::vector<std::uint32_t> arrivals;  ///< first by shard, all sections together, and the end
  std::vector<SectionTiles> sections;   ///< those with units in this chunk
  RowsByShard<PadRow> pads[2];
  RowsByShard<std::uint64_t> seams[2];
  RowsByShard<PoisonRow> poison;
  std::vector<SlotHeader> headers[2];
};

/// `select_blocks`: thread blocks that may meet at a barrier on this device. Throws InvalidArgument
/// if a topk run is too long for a GPU (2^32 elements).
ChunkTables build_tables(const Plan& plan, int chunk, Verb verb, int select_blocks);

}  // namespace thinwire::compress::cuda
