#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "run_layout.hpp"

namespace thinwire::compress {

/// The parts of an encoded topk run. Reads only inside `bytes`, whatever they say, as long as
/// block < parts().blocks and entry < capacity.
class TopkRun {
 public:
  /// `bytes` starts at the run and holds at least TopkParts{elements, capacity}.bytes.
  TopkRun(std::span<const std::byte> bytes, std::int64_t elements, std::int64_t capacity)
      : bytes_{bytes}, elements_{elements}, capacity_{capacity}, parts_{elements, capacity} {}

  const TopkParts& parts() const { return parts_; }

  /// Index of the first entry of a block; of block parts().blocks: the number of entries.
  std::int64_t first(std::int64_t block) const { return word(block) & ~topk_non_finite; }
  bool non_finite(std::int64_t block) const { return (word(block) & topk_non_finite) != 0; }
  std::int64_t block_elements(std::int64_t block) const;

  /// Position of an entry within its block, and its value.
  std::int64_t local(std::int64_t entry) const;
  float value(std::int64_t entry) const;

  /// Throws FormatError naming the peer unless first[] is monotone and inside the capacity and
  /// every local index rises strictly inside its block.
  void check(int peer) const;

 private:
  std::uint32_t word(std::int64_t block) const;

  std::span<const std::byte> bytes_;
  std::int64_t elements_;
  std::int64_t capacity_;
  TopkParts parts_;
};

}  // namespace thinwire::compress
