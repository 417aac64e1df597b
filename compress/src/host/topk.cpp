#include "host/topk.hpp"

#include <algorithm>

#include "host/parallel.hpp"

namespace thinwire::compress {

HostTopk::HostTopk(const Plan& plan, WorkerPool& pool)
    : pool_{&pool}, policy_{plan.settings().non_finite} {
  std::size_t most_strips = 0;
  std::size_t most_pieces = 0;
  std::size_t most_candidates = 0;
  std::int64_t most_elements = 0;
  for (int shard = 0; shard < plan.ranks(); ++shard) {
    for (const Run& run : plan.slot(shard, 0).runs) {  // a plan with topk has one chunk
      if (plan.sections()[run.section].codec != Codec::topk) continue;
      const std::size_t first = strips_.size();
      for (const Piece& piece : run.pieces) {
        for (std::int64_t offset = 0; offset < piece.elements; offset += topk_strip_elements) {
          strips_.push_back(
              {&piece, offset, std::min(topk_strip_elements, piece.elements - offset)});
        }
      }
      runs_.push_back({&run, first, strips_.size() - first});
      most_strips = std::max(most_strips, strips_.size() - first);
      most_pieces = std::max(most_pieces, run.pieces.size());
      most_elements = std::max(most_elements, run.elements);
      for (const std::int64_t entries : {run.entries, run.entries_out}) {
        most_candidates = std::max(most_candidates, topk_candidate_capacity(run.elements, entries));
      }
    }
  }
  if (runs_.empty()) return;
  touched_.resize(most_pieces);
  scratch_ =
      std::make_unique<TopkScratch>(most_strips, most_elements, most_candidates, pool.threads());
}

std::span<const TopkStrip> HostTopk::strips_of(const Run& run) const {
  const auto found = std::find_if(runs_.begin(), runs_.end(),
                                  [&](const RunStrips& strips) { return strips.run == &run; });
  return {strips_.data() + found->first, found->count};
}

std::uint32_t HostTopk::encode(const Run& run, const ConstTensorView& gradients, float inv_scale,
                               const TopkResidual& worker, std::span<std::byte> out) {
  const TopkGradients input{gradients, inv_scale};
  TopkSelection selection{input,       worker,  strips_of(run), run.elements,
                          run.entries, policy_, *scratch_,      *pool_};
  return selection.write(out);
}

std::uint32_t HostTopk::reduce_encode(const Run& run, const TopkPeers& peers,
                                      const TopkResidual& server, std::span<std::byte> out) {
  for (std::size_t i = 0; i < run.pieces.size(); ++i) {
    touched_[i] = peers.has_entry(run.pieces[i].position, run.pieces[i].elements) ? 1 : 0;
  }
  const TopkMean input{peers, run, touched_};
  TopkSelection selection{input,           server,  strips_of(run), run.elements,
                          run.entries_out, policy_, *scratch_,      *pool_};
  for (std::int64_t block = 0; block * topk_block < run.elements; ++block) {
    if (peers.non_finite(block)) selection.mark_non_finite(block);
  }
  return selection.write(out);
}

void HostTopk::decode(const Run& run, const TopkPeers& peers, float mean, float out_scale,
                      const TensorView& out, std::int64_t origin, bool streamed) const {
  const auto strips = strips_of(run);
  parallel_items(*pool_, strips.size(), [&](std::size_t i) {
    const TopkStrip& strip = strips[i];
    alignas(64) float values[topk_strip_elements];
    peers.sum(strip.position(), strip.elements, values);
    simd::scale_in_place(values, strip.elements, mean);
    const auto first = static_cast<std::size_t>(strip.piece->source + strip.offset - origin);
    simd::write_scaled(values, strip.elements, out_scale, out.dtype,
                       static_cast<std::byte*>(out.data) + first * size_of(out.dtype), streamed);
    simd::stream_fence();
  });
}

}  // namespace thinwire::compress
