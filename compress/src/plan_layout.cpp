#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "run_layout.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

/// What a shard holds of one section, over all chunks. A piece's first_block counts in this run;
/// its fields that belong to a chunk are filled in by append().
struct ShardRun {
  std::int64_t blocks = 0;
  std::vector<Piece> pieces;

  void add(std::uint32_t span, std::int64_t source, std::int64_t residual, std::int64_t elements,
           std::int64_t block) {
    pieces.push_back({.span = span,
                      .elements = elements,
                      .source = source,
                      .residual = residual,
                      .server = -1,
                      .first_block = blocks});
    blocks += ceil_div(elements, block);
  }
};

/// The part of `whole` in blocks [from, to) of its shard's run.
Piece cut(const Piece& whole, std::int64_t from, std::int64_t to, std::int64_t block) {
  const std::int64_t skipped = std::max<std::int64_t>(0, from - whole.first_block) * block;
  const std::int64_t end = std::min(whole.elements, (to - whole.first_block) * block);
  Piece piece = whole;
  piece.elements = std::max<std::int64_t>(0, end - skipped);
  piece.source += skipped;
  if (piece.residual >= 0) piece.residual += skipped;
  piece.first_block += skipped / block;
  return piece;
}

/// Puts a piece at the end of a run of the payload.
void append(Run& run, Piece piece, Codec codec) {
  piece.first_block = run.blocks;
  piece.position = run.elements;
  piece.value_byte = run.value_bytes;
  run.blocks += ceil_div(piece.elements, block_elements(codec));
  run.elements += piece.elements;
  run.value_bytes += value_bytes(codec, piece.elements);
  run.pieces.push_back(piece);
}

/// Puts a run at the end of a slot.
void append(Slot& slot, Run run, const CodecSpec& spec) {
  run.offset = header_bytes + slot.length;
  run.offset_out = header_bytes + slot.length_out;
  if (spec.codec == Codec::topk) {
    run.entries = topk_entries(spec.density, run.elements);
    run.entries_out = topk_entries(spec.density_out, run.elements);
    constexpr std::int64_t most_entries = std::int64_t{1} << 31;  // bit 31 of first[] is a flag
    THINWIRE_EXPECTS(std::max(run.entries, run.entries_out) < most_entries, InvalidArgument,
                     fmt::format("plan: topk selects {} of {} elements of a shard; fewer than 2^31 "
                                 "fit: more ranks, smaller buckets or a lower density",
                                 std::max(run.entries, run.entries_out), run.elements));
    slot.length += TopkParts{run.elements, run.entries}.bytes;
    slot.length_out += TopkParts{run.elements, run.entries_out}.bytes;
  } else {
    run.scale_bytes = scale_bytes(spec.codec, run.blocks);
    const std::size_t bytes = pad16(run.scale_bytes) + pad16(run.value_bytes);
    slot.length += bytes;
    slot.length_out += bytes;
  }
  slot.elements += run.elements;
  slot.runs.push_back(std::move(run));
}

class Cutter {
 public:
  explicit Cutter(const Plan& plan) : plan_{plan} {}

  /// The runs of a section by shard.
  std::vector<ShardRun> runs(std::uint32_t section) const {
    std::vector<ShardRun> result(static_cast<std::size_t>(plan_.ranks()));
    const std::int64_t block = block_elements(plan_.sections()[section].codec);
    if (plan_.settings().boundaries.empty()) {
      cut_evenly(section, block, result);
    } else {
      cut_at_boundaries(section, block, result);
    }
    return result;
  }

 private:
  template <typename Body>
  void for_each_span(std::uint32_t section, Body body) const {
    for (std::size_t i = 0; i < plan_.spans().size(); ++i) {
      const Span& span = plan_.spans()[i];
      if (span.section == section && span.length > 0) body(static_cast<std::uint32_t>(i), span);
    }
  }

  void add(ShardRun& run, std::uint32_t index, std::int64_t from, std::int64_t elements,
           std::int64_t block) const {
    const std::int64_t residual = plan_.residual_offset(index);
    run.add(index, plan_.spans()[index].source_offset + from, residual < 0 ? -1 : residual + from,
            elements, block);
  }

  /// Consecutive blocks; the first (blocks mod ranks) runs are one block longer.
  void cut_evenly(std::uint32_t section, std::int64_t block, std::vector<ShardRun>& runs) const {
    std::int64_t blocks = 0;
    for_each_span(section,
                  [&](std::uint32_t, const Span& span) { blocks += ceil_div(span.length, block); });
    const auto ranks = static_cast<std::int64_t>(runs.size());
    const auto quota = [&](std::size_t shard) {
      return blocks / ranks + (static_cast<std::int64_t>(shard) < blocks % ranks ? 1 : 0);
    };
    std::size_t shard = 0;
    for_each_span(section, [&](std::uint32_t index, const Span& span) {
      for (std::int64_t from = 0; from < span.length;) {
        while (runs[shard].blocks == quota(shard)) ++shard;
        const std::int64_t room = (quota(shard) - runs[shard].blocks) * block;
        const std::int64_t elements = std::min(room, span.length - from);
        add(runs[shard], index, from, elements, block);
        from += elements;
      }
    });
  }

  void cut_at_boundaries(std::uint32_t section, std::int64_t block,
                         std::vector<ShardRun>& runs) const {
    const auto& boundaries = plan_.settings().boundaries;
    for_each_span(section, [&](std::uint32_t index, const Span& span) {
      for (std::int64_t from = 0; from < span.length;) {
        const std::int64_t source = span.source_offset + from;
        const auto next = std::upper_bound(boundaries.begin(), boundaries.end(), source);
        const auto shard = static_cast<std::size_t>(next - boundaries.begin()) - 1;
        const std::int64_t elements = std::min(span.length - from, *next - source);
        add(runs[shard], index, from, elements, block);
        from += elements;
      }
    });
  }

  const Plan& plan_;
};

std::int64_t longest(const std::vector<ShardRun>& runs) {
  std::int64_t blocks = 0;
  for (const ShardRun& run : runs) blocks = std::max(blocks, run.blocks);
  return blocks;
}

}  // namespace

void Plan::lay_out_residuals() {
  residual_offsets_.reserve(spans_.size());
  for (const Span& span : spans_) {
    const bool remembered = sections_[span.section].feedback == Feedback::ef;
    residual_offsets_.push_back(remembered ? residual_elements_ : -1);
    if (remembered) residual_elements_ += ceil_div(span.length, 16) * 16;
  }
}

void Plan::lay_out_slots() {
  const auto ranks = static_cast<std::size_t>(settings_.ranks);
  server_elements_.assign(ranks, 0);
  if (plain_) {
    slots_.resize(ranks);
    for (auto& bytes : slot_bytes_) bytes.assign(1, 0);
    return;
  }

  std::vector<std::vector<ShardRun>> runs;
  std::int64_t most_blocks = 1;
  bool has_topk = false;
  for (std::uint32_t section = 0; section < sections_.size(); ++section) {
    runs.push_back(Cutter{*this}.runs(section));
    most_blocks = std::max(most_blocks, longest(runs.back()));
    has_topk = has_topk || (sections_[section].codec == Codec::topk && longest(runs.back()) > 0);
  }
  chunks_ = has_topk ? 1 : static_cast<int>(std::min<std::int64_t>(settings_.chunks, most_blocks));

  slots_.resize(static_cast<std::size_t>(chunks_) * ranks);
  for (std::uint32_t section = 0; section < sections_.size(); ++section) {
    const CodecSpec& spec = sections_[section];
    const std::int64_t block = block_elements(spec.codec);
    // A chunk is the same range of blocks in every shard, so that it moves no owner.
    const std::int64_t blocks = longest(runs[section]);
    // Only the owner of an allreduce encodes again.
    const bool server =
        spec.feedback == Feedback::ef && settings_.operation == Operation::allreduce;
    for (std::size_t shard = 0; shard < ranks; ++shard) {
      const ShardRun& whole = runs[section][shard];
      for (int chunk = 0; chunk < chunks_; ++chunk) {
        const std::int64_t from = blocks * chunk / chunks_;
        const std::int64_t to = blocks * (chunk + 1) / chunks_;
        Run run;
        run.section = section;
        for (const Piece& of_shard : whole.pieces) {
          Piece piece = cut(of_shard, from, to, block);
          if (piece.elements == 0) continue;
          if (server) piece.server = server_elements_[shard] + piece.first_block * block;
          append(run, piece, spec.codec);
        }
        if (run.blocks > 0) {
          append(slots_[static_cast<std::size_t>(chunk) * ranks + shard], std::move(run), spec);
        }
      }
      if (server) server_elements_[shard] += whole.blocks * block;
    }
  }

  for (int chunk = 0; chunk < chunks_; ++chunk) {
    std::size_t longest_slot = 0;
    std::size_t longest_out = 0;
    for (int shard = 0; shard < settings_.ranks; ++shard) {
      longest_slot = std::max(longest_slot, slot(shard, chunk).length);
      longest_out = std::max(longest_out, slot(shard, chunk).length_out);
    }
    slot_bytes_[static_cast<std::size_t>(Phase::reduce)].push_back(header_bytes + longest_slot);
    slot_bytes_[static_cast<std::size_t>(Phase::gather)].push_back(header_bytes + longest_out);
  }
}

}  // namespace thinwire::compress
