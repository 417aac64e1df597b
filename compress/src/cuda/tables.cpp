#include "cuda/tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "block_rules.hpp"
#include "run_layout.hpp"
#include "thinwire/core/dtype.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress::cuda {
namespace {

constexpr std::int64_t most_pad_bytes = 4096;

std::uint32_t narrow(std::size_t value) { return static_cast<std::uint32_t>(value); }

std::size_t offset_of(const Run& run, Phase phase) {
  return phase == Phase::reduce ? run.offset : run.offset_out;
}

/// Puts the pieces and tiles of one run behind those of the shards before it.
void add_run(ChunkTables& tables, const Plan& plan, const Run& run, std::uint32_t shard,
             std::int64_t units_per_tile, std::uint32_t& units) {
  const Codec codec = plan.sections()[run.section].codec;
  const std::int64_t units_before = units;
  const std::size_t scales = run.offset;
  const std::size_t values = run.offset + pad16(run.scale_bytes);
  const std::uint32_t arrived = tables.arrivals[shard];
  std::vector<TileRow> tiles;
  for (const Piece& piece : run.pieces) {
    PieceRow row{.source = piece.source,
                 .residual = piece.residual,
                 .server = piece.server,
                 .elements = piece.elements,
                 .scale_byte = codec == Codec::topk
                                   ? static_cast<std::uint64_t>(piece.position)
                                   : scales + scale_bytes(codec, piece.first_block),
                 .value_byte = values + piece.value_byte,
                 .out_shift = static_cast<std::int64_t>(run.offset_out) -
                              static_cast<std::int64_t>(run.offset),
                 .first_unit = units,
                 .shard = shard};
    for (std::int64_t from = 0; from < piece.elements; from += unit_elements) {
      if ((units - units_before) % units_per_tile == 0) {
        const std::uint32_t arrival = arrived + narrow(tiles.size());
        tiles.push_back({.piece = narrow(tables.pieces.size()),
                         .first_unit = units,
                         .arrival = arrival,
                         .shard = shard,
                         .value_end = 0,
                         .units = 0,
                         .begins = arrival == 0 ? 1u : 0u});
      }
      const std::int64_t to = std::min(piece.elements, from + unit_elements);
      tiles.back().units += 1;
      tiles.back().value_end = row.value_byte + value_bytes(codec, to);
      ++units;
    }
    tables.pieces.push_back(row);
  }
  tables.tiles.insert(tables.tiles.end(), tiles.begin(), tiles.end());
}

bool of_owner(Verb verb) { return verb == Verb::reduce_encode || verb == Verb::reduce; }

/// Thread blocks of a selection end its verb; the tiles before them gather nothing.
bool selects(Codec codec, Verb verb) {
  return codec == Codec::topk && (verb == Verb::encode || verb == Verb::reduce_encode);
}

TopkRow topk_row(const ChunkTables& tables, const Run& run, std::uint32_t shard, Verb verb,
                 std::uint32_t first_piece, std::uint32_t first_unit, std::uint32_t units) {
  THINWIRE_EXPECTS(run.elements < std::int64_t{1} << 32, InvalidArgument,
                   fmt::format("topk: {} elements of one shard are too many for a GPU; at most "
                               "2^32 - 1",
                               run.elements));
  TopkRow row{.offset = {run.offset, run.offset_out},
              .elements = run.elements,
              .entries = {narrow(static_cast<std::size_t>(run.entries)),
                          narrow(static_cast<std::size_t>(run.entries_out))},
              .first_piece = first_piece,
              .pieces = narrow(run.pieces.size()),
              .first_unit = first_unit,
              .units = units,
              .first_tile = 0,
              .tiles = 0,
              .wanted = 0,
              .segment = 0,
              .first_arrival = tables.arrivals[shard],
              .scratch = {}};
  const std::int64_t entries = of_owner(verb) ? run.entries_out : run.entries;
  const auto wanted = static_cast<std::int64_t>(
      std::max(candidates_per_entry * static_cast<double>(entries),
               candidates_per_element * static_cast<double>(run.elements)));
  if (run.elements > unsampled_elements && wanted < run.elements / 2) {
    row.wanted = narrow(static_cast<std::size_t>(wanted));
    row.segment = candidate_segment(static_cast<double>(wanted) / static_cast<double>(units));
  }
  return row;
}

/// Units of a section in one shard.
std::int64_t units_in_shard(const Plan& plan, int chunk, std::uint32_t section, int shard) {
  std::int64_t units = 0;
  for (const Run& run : plan.slot(shard, chunk).runs) {
    if (run.section != section) continue;
    for (const Piece& piece : run.pieces) units += ceil_div(piece.elements, unit_elements);
  }
  return units;
}

std::int64_t longest_shard(const Plan& plan, int chunk, std::uint32_t section) {
  std::int64_t units = 0;
  for (int shard = 0; shard < plan.ranks(); ++shard) {
    units = std::max(units, units_in_shard(plan, chunk, section, shard));
  }
  return units;
}

/// Units that one call codes.
std::int64_t units_in_section(const Plan& plan, int chunk, std::uint32_t section, Verb verb) {
  std::int64_t units = 0;
  for (int shard = 0; shard < plan.ranks(); ++shard) {
    units += units_in_shard(plan, chunk, section, shard);
  }
  return of_owner(verb) ? units / plan.ranks() : units;
}

std::int64_t most_units_of_tile(Verb verb) {
  if (verb == Verb::encode) return units_per_encode_tile_at_most;
  return verb == Verb::decode ? units_per_decode_tile_at_most : units_per_tile_at_most;
}

std::int64_t tile_size(std::int64_t units, Verb verb) {
  const auto wanted =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(units / tiles_wanted)));
  return std::clamp(wanted, units_per_tile_at_least, most_units_of_tile(verb));
}

void add_section(ChunkTables& tables, const Plan& plan, int chunk, std::uint32_t section, Verb verb,
                 int select_blocks) {
  const Codec codec = plan.sections()[section].codec;
  SectionTiles tiles{.section = section, .first_tile = {narrow(tables.tiles.size())}, .topk = {}};
  std::uint32_t units = 0;
  const std::int64_t all_units = units_in_section(plan, chunk, section, verb);
  const std::int64_t units_per_tile = tile_size(all_units, verb);
  if (codec == Codec::topk) {
    const std::int64_t runs = of_owner(verb) ? 1 : plan.ranks();
    const std::int64_t wanted =
        ceil_div(longest_shard(plan, chunk, section), units_per_select_block);
    tiles.topk_view = {.rows = nullptr,
                       .blocks = narrow(static_cast<std::size_t>(std::clamp<std::int64_t>(
                           wanted, 1, std::max<std::int64_t>(1, select_blocks / runs)))),
                       .sample_blocks = most_sample_places * sample_run / select_threads};
  }
  for (std::uint32_t shard = 0; shard < static_cast<std::uint32_t>(plan.ranks()); ++shard) {
    TopkRow row{};
    for (const Run& run : plan.slot(static_cast<int>(shard), chunk).runs) {
      if (run.section != section) continue;
      const auto first_piece = narrow(tables.pieces.size());
      const std::uint32_t first_unit = units;
      add_run(tables, plan, run, shard, units_per_tile, units);
      if (codec == Codec::topk) {
        row = topk_row(tables, run, shard, verb, first_piece, first_unit, units - first_unit);
      }
    }
    row.first_tile = tiles.first_tile.back();
    row.tiles = narrow(tables.tiles.size()) - row.first_tile;
    if (selects(codec, verb)) {
      tables.arrivals[shard] += row.units != 0 ? tiles.topk_view.blocks : 0;
    } else {
      tables.arrivals[shard] += row.tiles;
    }
    if (codec == Codec::topk) tiles.topk.push_back(row);
    tiles.first_tile.push_back(narrow(tables.tiles.size()));
  }
  if (units == 0) return;
  // A warp looks at 32 rows from its tile's first.
  PieceRow sentinel{};
  sentinel.first_unit = std::numeric_limits<std::uint32_t>::max();
  sentinel.shard = std::numeric_limits<std::uint32_t>::max();
  tables.pieces.insert(tables.pieces.end(), 32, sentinel);
  tables.sections.push_back(std::move(tiles));
}

void add_pad(RowsByShard<PadRow>& pads, std::size_t from, std::size_t to, std::uint32_t shard) {
  for (; from < to;) {
    const auto bytes = std::min<std::size_t>(to - from, most_pad_bytes);
    pads.rows.push_back({.byte = from, .bytes = narrow(bytes), .shard = shard});
    from += bytes;
  }
}

/// Words of the payload, counted from behind the header, that overlap bytes [from, to) of the slot.
void add_seam(RowsByShard<std::uint64_t>& seams, std::size_t from, std::size_t to) {
  for (std::size_t byte = from / 4 * 4; byte < to; byte += 4) {
    const std::uint64_t word = (byte - header_bytes) / 4;
    if (seams.rows.size() > seams.first.back() && seams.rows.back() == word) continue;
    seams.rows.push_back(word);
  }
}

void add_poison(RowsByShard<PoisonRow>& poison, const Run& run, Codec codec) {
  const std::size_t scales = run.offset_out;
  const std::size_t values = scales + pad16(run.scale_bytes);
  switch (codec) {
    case Codec::sign:
      return poison.rows.push_back({scales, run.scale_bytes, sign_non_finite_word});
    case Codec::bf16:
      return poison.rows.push_back({values, run.value_bytes, canonical_nan_bf16 * 0x10001ull});
    case Codec::none:
      return poison.rows.push_back({values, run.value_bytes, canonical_nan_f32});
    case Codec::topk: {
      const TopkParts parts{run.elements, run.entries_out};
      const auto bytes = 4 * static_cast<std::size_t>(parts.blocks);
      return poison.rows.push_back({scales, bytes, topk_non_finite});
    }
    default:
      return poison.rows.push_back({scales, run.scale_bytes, canonical_nan_f32});
  }
}

void add_slot(ChunkTables& tables, const Plan& plan, int chunk, int shard, Phase phase) {
  const auto p = static_cast<std::size_t>(phase);
  const auto row_shard = static_cast<std::uint32_t>(shard);
  const Slot& slot = plan.slot(shard, chunk);
  RowsByShard<PadRow>& pads = tables.pads[p];
  RowsByShard<std::uint64_t>& seams = tables.seams[p];
  for (const Run& run : slot.runs) {
    const Codec codec = plan.sections()[run.section].codec;
    if (phase == Phase::gather) add_poison(tables.poison, run, codec);
    if (codec == Codec::topk) continue;  // its kernels write it whole
    const std::size_t scales_end = offset_of(run, phase) + run.scale_bytes;
    const std::size_t values = offset_of(run, phase) + pad16(run.scale_bytes);
    add_pad(pads, scales_end, values, row_shard);
    add_seam(seams, scales_end, values);
    const auto tiles =
        std::find_if(tables.sections.begin(), tables.sections.end(),
                     [&](const SectionTiles& section) { return section.section == run.section; });
    const std::size_t shift = offset_of(run, phase) - run.offset;
    for (std::uint32_t tile = tiles->first_tile[row_shard]; tile < tiles->first_tile[row_shard + 1];
         ++tile) {
      const std::size_t end = tables.tiles[tile].value_end + shift;
      if (end % 4 != 0) add_seam(seams, end, end + 1);
    }
    const std::size_t values_end = values + run.value_bytes;
    add_pad(pads, values_end, values + pad16(run.value_bytes), row_shard);
    add_seam(seams, values_end, values + pad16(run.value_bytes));
  }
  const std::size_t length = phase == Phase::reduce ? slot.length : slot.length_out;
  add_pad(pads, header_bytes + length, plan.slot_bytes(chunk, phase), row_shard);
  if (phase == Phase::gather) tables.poison.end_shard();
  pads.end_shard();
  seams.end_shard();
  tables.headers[p].push_back(make_header(plan, shard, chunk, phase, 0, 0, 0));
}

/// Arrivals were counted shard by shard: now they are numbered over all shards.
void number_arrivals(ChunkTables& tables) {
  std::vector<std::uint32_t> first{0};
  for (const std::uint32_t count : tables.arrivals) first.push_back(first.back() + count);
  for (TileRow& tile : tables.tiles) tile.arrival += first[tile.shard];
  for (SectionTiles& section : tables.sections) {
    for (std::size_t shard = 0; shard < section.topk.size(); ++shard) {
      section.topk[shard].first_arrival += first[shard];
    }
  }
  tables.arrivals = first;
}

}  // namespace

ChunkTables build_tables(const Plan& plan, int chunk, Verb verb, int select_blocks) {
  ChunkTables tables;
  tables.arrivals.resize(static_cast<std::size_t>(plan.ranks()));
  for (std::uint32_t section = 0; section < plan.sections().size(); ++section) {
    add_section(tables, plan, chunk, section, verb, select_blocks);
  }
  number_arrivals(tables);
  for (const Phase phase : {Phase::reduce, Phase::gather}) {
    for (int shard = 0; shard < plan.ranks(); ++shard) {
      add_slot(tables, plan, chunk, shard, phase);
    }
  }
  return tables;
}

}  // namespace thinwire::compress::cuda
