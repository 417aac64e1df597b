#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "thinwire/compress/plan.hpp"

/// How the host coder cuts a plan into work for its threads.
namespace thinwire::compress {

/// Whole blocks of one piece; only the last may be short.
struct Stretch {
  const Piece* piece;
  std::int64_t offset;  ///< first element within the piece, a multiple of the block
  std::int64_t elements;
  std::size_t scale_byte;  ///< of its first block in the scales part of the run
  std::size_t value_byte;  ///< of its first value in the values part of the run

  std::int64_t source() const { return piece->source + offset; }
};

/// Consecutive stretches of a run that one thread codes in one go.
struct WorkItem {
  int shard;
  const Run* run;
  std::vector<Stretch> stretches;
  std::size_t scale_bytes[2];  ///< begin and end in the scales part of the run
  std::size_t value_bytes[2];  ///< begin and end in the values part of the run
};

/// The work items of every chunk and shard of a plan, topk runs left out. Immutable.
class HostLayout {
 public:
  /// `plan` must outlive the layout.
  explicit HostLayout(const Plan& plan);

  std::span<const WorkItem> items(int chunk) const;
  std::span<const WorkItem> items(int chunk, int shard) const;

 private:
  void add_run(int shard, const Run& run);

  const Plan* plan_;
  std::vector<WorkItem> items_;
  std::vector<std::size_t> first_item_;  // [chunk * ranks + shard], and one past the end
};

}  // namespace thinwire::compress
