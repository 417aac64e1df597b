#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/tuning.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/compress/plan.hpp"

/// Tables that kernels read, one set a chunk. Plain numbers, the same on host and device.
namespace thinwire::compress::cuda {

/// The verbs have tables of their own: their thread blocks differ in size.
enum class Verb : int { encode = 0, reduce_encode = 1, reduce = 2, decode = 3 };
constexpr Verb all_verbs[] = {Verb::encode, Verb::reduce_encode, Verb::reduce, Verb::decode};

/// A warp codes one unit: up to 1024 consecutive elements of one piece, whole blocks of the codec.
constexpr std::int64_t unit_elements = 1024;

/// A Piece in device terms. Byte places are in the slot of phase reduce.
struct PieceRow {
  std::int64_t source;
  std::int64_t residual;  ///< -1 without
  std::int64_t server;    ///< -1 without
  std::int64_t elements;
  std::uint64_t scale_byte;  ///< of its first block's scale; topk: position of its first element
  std::uint64_t value_byte;  ///< of its first value
  std::int64_t out_shift;    ///< added to a byte place for phase gather
  std::uint32_t first_unit;  ///< counted in the section, over all shards
  std::uint32_t shard;
};
static_assert(sizeof(PieceRow) == 64);

/// Consecutive units of one run, coded by one thread block.
struct TileRow {
  std::uint32_t piece;  ///< that holds the first unit
  std::uint32_t first_unit;
  std::uint32_t arrival;  ///< where it gathers, see Gathered
  std::uint32_t shard;
  std::uint64_t value_end;  ///< byte after the last value, in the slot of phase reduce
  std::uint32_t units;      ///< 1 to units_per_tile_at_most
  std::uint32_t begins;     ///< 1 for the first that gathers for its shard
};
static_assert(sizeof(TileRow) == 32);
static_assert(units_per_tile_at_most <= 32, "a lane looks at a piece");

/// Bytes of a slot that no unit writes.
struct PadRow {
  std::uint64_t byte;
  std::uint32_t bytes;
  std::uint32_t shard;
};

/// What makes a part of a slot non-finite: every decoder reads its blocks as NaN.
struct PoisonRow {
  std::uint64_t byte;
  std::uint64_t bytes;
  std::uint64_t pattern;  ///< 32 bits, repeated
};

/// Rows of one kind for each shard: shard j has rows [first[j], first[j + 1]).
template <typename Row>
struct ByShard {
  const Row* rows;
  const std::uint32_t* first;
};

/// What all launches of a chunk share. Indexed by Phase where there are two.
struct ChunkView {
  const PieceRow* pieces;
  const TileRow* tiles;
  ByShard<PadRow> pads[2];
  /// Words of the payload that no unit digests by itself: at the ends of tiles, and padding.
  ByShard<std::uint64_t> seams[2];
  ByShard<PoisonRow> poison;     ///< of phase gather
  const SlotHeader* headers[2];  ///< by shard; flags, sequence and checksum are 0
  std::uint64_t slot_bytes[2];
  const std::uint32_t* arrivals;  ///< first arrival by shard, all sections together, and the end
  std::uint32_t piece_count;
  std::uint32_t shards;
};

/// What the launches of one verb and chunk gather for the kernel that ends the verb. Each thread
/// block has a place of its own for its digest: atomics on a few addresses, a billion a second at
/// best, would be what a short kernel waits for.
struct Gathered {
  std::uint64_t* digests;      ///< by arrival
  std::uint64_t* digests_out;  ///< the same, of what an owner writes
  std::uint32_t* flags;        ///< by shard; zero between calls
};

/// CudaState's place in its step.
struct StateRow {
  std::uint32_t worker_version;
  std::uint32_t server_version;
  std::uint32_t worker_written;
  std::uint32_t server_written;
  std::uint32_t in_place;
  std::uint32_t reserved[3];
};

/// CudaStep in device memory; the rows follow it.
struct StepBlock {
  std::uint64_t sequence;
  std::uint32_t flags;
  std::uint32_t failed;
  StateRow* rows() { return reinterpret_cast<StateRow*>(this + 1); }
};
static_assert(sizeof(StepBlock) == 16);

/// One report in mapped memory; valid once `done` is sequence + 1.
struct ReportRow {
  std::uint64_t done;
  std::uint64_t sequence;
  std::uint32_t flags;
  std::uint32_t failed;
  std::uint32_t skipped;
  std::uint32_t reserved;
};
constexpr std::uint64_t kept_reports = 8;

}  // namespace thinwire::compress::cuda
