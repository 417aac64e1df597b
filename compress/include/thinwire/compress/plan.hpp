#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "thinwire/compress/codec_spec.hpp"
#include "thinwire/core/dtype.hpp"

namespace thinwire::compress {

/// One parameter's place in a bucket. Its identity is (parameter, parameter_offset), never the
/// bucket: residuals survive another bucketing because of that.
struct Span {
  std::string parameter{};            ///< global name of the parameter
  std::int64_t parameter_offset = 0;  ///< first element of the parameter that stands here
  std::int64_t source_offset = 0;     ///< first element in the bucket's gradient tensor
  std::int64_t length = 0;            ///< elements
  std::int64_t rows = 0;  ///< shape of the parameter, for codecs that need one; 0 if none
  std::int64_t cols = 0;
  std::uint32_t section = 0;  ///< index into the sections of the plan

  bool operator==(const Span&) const = default;
};

/// What the payload is for. The numbers are part of the wire format.
enum class Operation : std::uint8_t { allreduce = 0, reduce_scatter = 1, all_gather = 2 };

/// When residuals change: `in_place` as they are encoded (4 bytes an element); `double_buffered`
/// all at once at the end of a step, or not at all (8 bytes an element).
enum class Commit : std::uint8_t { in_place = 0, double_buffered = 1 };

/// What a NaN or Inf does. `propagate`: its block becomes NaN on every rank. `raise`: the same, and
/// NonFiniteError at the end of the step (needs double_buffered). `zero`: its block is sent as
/// zero.
enum class NonFinite : std::uint8_t { propagate = 0, raise = 1, zero = 2 };

struct PlanSettings {
  int ranks = 1;
  Operation operation = Operation::allreduce;
  DType dtype = DType::f32;  ///< of the gradient tensor
  Commit commit = Commit::in_place;
  NonFinite non_finite = NonFinite::propagate;
  int chunks = 1;  ///< wanted; never more than blocks, and one with a topk section
  /// Empty: each section is cut evenly by blocks. Else ranks + 1 rising source offsets: shard j is
  /// the source elements [boundaries[j], boundaries[j + 1]), and a boundary starts a new block.
  std::vector<std::int64_t> boundaries{};
};

/// A stretch of consecutive blocks of one span inside one run. Only a span's last block is short.
struct Piece {
  std::uint32_t span = 0;        ///< index into Plan::spans()
  std::int64_t elements = 0;     ///< > 0
  std::int64_t source = 0;       ///< first element in the gradient tensor
  std::int64_t residual = 0;     ///< first element in the worker residual; -1 without feedback
  std::int64_t server = 0;       ///< first element in the owner's server residual; -1 without
  std::int64_t first_block = 0;  ///< index of its first block in the run
  std::int64_t position = 0;     ///< index of its first element in the run, packed without gaps
  std::size_t value_byte = 0;    ///< of its first value in the values part of the run
};

/// What one section contributes to one slot: scales_bytes of scales or header words, then
/// value_bytes of values, each padded with zeros to 16. A topk run has its own three parts
/// (docs/wire-format.md).
struct Run {
  std::uint32_t section = 0;
  std::int64_t blocks = 0;
  std::int64_t elements = 0;
  std::int64_t entries = 0;      ///< topk: capacity on the way to the owner
  std::int64_t entries_out = 0;  ///< topk: capacity on the way back
  std::size_t offset = 0;        ///< of the run in the slot, header included, first phase
  std::size_t offset_out = 0;    ///< the same in the second phase (differs after a topk run)
  std::size_t scale_bytes = 0;   ///< unpadded; topk: 0
  std::size_t value_bytes = 0;   ///< unpadded; topk: 0
  std::vector<Piece> pieces;
};

/// The part of the bucket that one shard sends in one chunk, headers included.
struct Slot {
  std::int64_t elements = 0;
  std::size_t length = 0;      ///< exact bytes of the payload after the header, first phase
  std::size_t length_out = 0;  ///< the same in the second phase
  std::vector<Run> runs;       ///< one a section that has blocks here
};

/// The phase a slot travels in: worker to owner, or owner to everybody.
enum class Phase : std::uint8_t { reduce = 0, gather = 1 };

/// Everything about a bucket that is known before its first step: owners, layout, sizes, identity.
/// Immutable; may be read from any thread. Equal plans on all ranks have equal ids.
class Plan {
 public:
  /// `spans` may leave gaps in the source, but must not overlap. Spans of length 0 are allowed.
  /// Throws InvalidArgument naming the span or the setting that is wrong.
  Plan(std::vector<CodecSpec> sections, std::vector<Span> spans, PlanSettings settings);

  const std::vector<CodecSpec>& sections() const { return sections_; }
  const std::vector<Span>& spans() const { return spans_; }
  const PlanSettings& settings() const { return settings_; }
  int ranks() const { return settings_.ranks; }
  int chunks() const { return chunks_; }
  std::uint64_t id() const { return id_; }

  std::int64_t elements() const { return elements_; }  ///< sum of the spans' lengths
  std::int64_t source_extent() const {
    return source_extent_;
  }  ///< one past the last source element

  /// Codec and block for the header: those of all sections, or mixed and 0.
  Codec header_codec() const;
  std::uint32_t header_block() const;

  /// True if the bucket is wholly `none`: it takes the library's own allreduce and has no payload:
  /// its slots are empty, all byte counts below are 0, and a coder refuses it.
  bool plain() const { return plain_; }

  const Slot& slot(int shard, int chunk) const;

  /// Bytes of one slot with its header: of the largest shard, a multiple of 16.
  std::size_t slot_bytes(int chunk, Phase phase) const;
  /// Byte offset of a chunk's N slots in a buffer of payload_bytes(phase).
  std::size_t chunk_offset(int chunk, Phase phase) const;
  /// Bytes of N slots of every chunk: size of each payload buffer.
  std::size_t payload_bytes(Phase phase) const;
  /// Bytes that this plan puts on the wire from one rank to all others in one call, headers
  /// included and its own slot left out.
  std::size_t wire_bytes() const;

  std::int64_t residual_elements() const { return residual_elements_; }  ///< worker side
  std::int64_t server_elements(int shard) const;  ///< server residual of the shard's owner
  /// First element of a span in the worker residual (a multiple of 16), -1 without feedback.
  std::int64_t residual_offset(std::size_t span) const { return residual_offsets_[span]; }

  /// Bytes of residual memory that State takes for this plan on the rank that owns `shard`.
  std::size_t state_bytes(int shard) const;

  /// Every field that must be equal on all ranks, as (name, value) text.
  std::vector<std::pair<std::string, std::string>> describe() const;

 private:
  void check() const;
  void lay_out_residuals();
  void lay_out_slots();

  std::vector<CodecSpec> sections_;
  std::vector<Span> spans_;
  PlanSettings settings_;
  int chunks_ = 1;
  bool plain_ = false;
  std::uint64_t id_ = 0;
  std::int64_t elements_ = 0;
  std::int64_t source_extent_ = 0;
  std::int64_t residual_elements_ = 0;
  std::vector<std::int64_t> residual_offsets_;
  std::vector<std::int64_t> server_elements_;  // by shard
  std::vector<Slot> slots_;                    // [chunk * ranks + shard]
  std::vector<std::size_t> slot_bytes_[2];     // by phase, then chunk
};

}  // namespace thinwire::compress
