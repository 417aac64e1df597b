#include "host/topk_input.hpp"

#include <algorithm>
#include <limits>

#include "simd/kernels.hpp"

namespace thinwire::compress {
namespace {

/// The entries of a run in [position, position + elements), block by block: body(block, first
/// entry, end, lowest local index, end of local indices).
template <typename Body>
void for_each_overlap(const TopkRun& run, std::int64_t position, std::int64_t elements, Body body) {
  const std::int64_t end = position + elements;
  for (std::int64_t block = position / topk_block; block * topk_block < end; ++block) {
    const std::int64_t start = block * topk_block;
    const std::int64_t from = std::max(position - start, std::int64_t{0});
    const std::int64_t to = std::min(end - start, topk_block);
    // First entry of the block that is not before `from`.
    std::int64_t low = run.first(block);
    const std::int64_t last = run.first(block + 1);
    for (std::int64_t high = last; low < high;) {
      const std::int64_t middle = low + (high - low) / 2;
      if (run.local(middle) < from) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    body(block, low, last, from, to);
  }
}

}  // namespace

void TopkPeers::sum(std::int64_t position, std::int64_t count, float* out) const {
  std::fill_n(out, count, 0.0f);
  for (int rank = 0; rank < ranks; ++rank) {
    const TopkRun from_rank = run(rank);
    for_each_overlap(from_rank, position, count,
                     [&](std::int64_t block, std::int64_t entry, std::int64_t last,
                         std::int64_t from, std::int64_t to) {
                       const std::int64_t start = block * topk_block - position;
                       if (from_rank.non_finite(block)) {
                         std::fill(out + start + from, out + start + to,
                                   std::numeric_limits<float>::quiet_NaN());
                       }
                       for (; entry < last; ++entry) {
                         const std::int64_t local = from_rank.local(entry);
                         if (local >= to) break;
                         out[start + local] += from_rank.value(entry);
                       }
                     });
  }
}

bool TopkPeers::has_entry(std::int64_t position, std::int64_t count) const {
  bool found = false;
  for (int rank = 0; rank < ranks && !found; ++rank) {
    const TopkRun from_rank = run(rank);
    for_each_overlap(
        from_rank, position, count,
        [&](std::int64_t, std::int64_t entry, std::int64_t last, std::int64_t, std::int64_t to) {
          found = found || (entry < last && from_rank.local(entry) < to);
        });
  }
  return found;
}

bool TopkPeers::non_finite(std::int64_t block) const {
  for (int rank = 0; rank < ranks; ++rank) {
    if (run(rank).non_finite(block)) return true;
  }
  return false;
}

const void* TopkMean::source(const TopkStrip& strip, float* buffer) const {
  peers_.sum(strip.position(), strip.elements, buffer);
  simd::scale_in_place(buffer, strip.elements, 1.0f / static_cast<float>(peers_.ranks));
  return buffer;
}

}  // namespace thinwire::compress
