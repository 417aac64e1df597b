#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "host/topk_cut.hpp"
#include "host/topk_input.hpp"
#include "simd/kernels.hpp"
#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire::compress {

/// Where the residuals of one side are read and written.
struct TopkResidual {
  const float* committed;
  float* next;
  bool streamed;  ///< `next` is written past the caches
};

/// What a selection learns about one strip.
struct TopkStripState {
  std::size_t first;  ///< of its candidates in TopkScratch::candidates
  std::uint32_t candidates;
  std::uint32_t above;  ///< those over the cut
  std::uint32_t ties;   ///< those on the cut; in the end, how many of them are taken
  std::int64_t entry;   ///< index of its first entry
};

/// Memory of selections, one at a time; sized for the largest.
struct TopkScratch {
  TopkScratch(std::size_t strips, std::int64_t elements, std::size_t candidates, int threads);

  std::vector<TopkStripState> states;
  Buffer candidates;
  std::unique_ptr<std::atomic<bool>[]> non_finite;  ///< by block of positions
  std::vector<std::uint32_t> sample;
  TopkHistograms histograms;
};

/// Candidates that are worth storing for `entries` of `elements`.
std::size_t topk_candidate_capacity(std::int64_t elements, std::int64_t entries);

/// The selection of one run, exact at about the cost of the pass over its elements.
///
/// A sample gives a threshold that about 1.5 times the wanted entries pass. The pass that does the
/// error feedback also stores these candidates, and the exact cut is made among them. Where the
/// sample misled, the candidates are found again from what the pass has written: slower, but the
/// result never depends on the sample. (Guess, verify, refine: the pattern of TensorRT-LLM's GVR
/// top-k.)
class TopkSelection {
 public:
  TopkSelection(const TopkInput& input, const TopkResidual& residual,
                std::span<const TopkStrip> strips, std::int64_t elements, std::int64_t entries,
                NonFinite policy, TopkScratch& scratch, WorkerPool& pool);

  /// From here on the block sends nothing. Before write() only.
  void mark_non_finite(std::int64_t block);

  /// Writes the whole run to `out`, padding included, and the next residual. Returns SlotFlag bits.
  std::uint32_t write(std::span<std::byte> out) { return write(sampled_threshold(), out); }

  /// The same with a threshold from elsewhere: below overflow_bits(Codec::topk), else of no
  /// influence on the result.
  std::uint32_t write(std::uint32_t threshold, std::span<std::byte> out);

 private:
  std::uint32_t sampled_threshold() const;
  std::size_t sample(const TopkStrip& place, const void* source, std::size_t at) const;
  void scan();
  std::int64_t count_candidates() const;
  bool settle_ties(std::int64_t missing);
  TopkCut find_cut(std::int64_t candidates);
  std::int64_t place_entries(const TopkCut& cut);
  void write_entries(const TopkCut& cut, std::span<std::byte> out);
  void fetch_residuals(std::size_t index) const;
  void write_strip(std::size_t index, const TopkCut& cut, std::span<std::byte> out);
  void store_first(std::int64_t block, std::int64_t entry, std::span<std::byte> out);

  simd::TopkScan job_of(const TopkStrip& strip) const;
  bool store(TopkStripState& state, const simd::TopkCandidate* from);
  std::uint32_t search(const TopkStrip& strip, std::uint32_t threshold,
                       simd::TopkCandidate* to) const;
  bool is_non_finite(std::int64_t position) const {
    return some_non_finite_ && scratch_.non_finite[static_cast<std::size_t>(position / topk_block)];
  }

  /// Calls body(candidate) for the candidates of a strip in finite blocks, in order.
  template <typename Body>
  void for_each_candidate(std::size_t strip, const Body& body) const;
  /// Calls body(index) for every strip, on all threads.
  template <typename Body>
  void for_each_strip(const Body& body) const;

  const TopkInput& input_;
  const TopkResidual& residual_;
  std::span<const TopkStrip> strips_;
  TopkParts parts_;
  std::int64_t elements_;
  std::int64_t entries_;
  NonFinite policy_;
  TopkScratch& scratch_;
  WorkerPool& pool_;
  std::uint32_t threshold_ = 0;
  std::atomic<std::size_t> used_{0};  // of scratch_.candidates
  bool stored_ = true;                // all candidates stand there
  std::atomic<bool> some_non_finite_{false};
};

}  // namespace thinwire::compress
