#include "fold_back.hpp"

#include <cstring>
#include <utility>
#include <vector>

#include "thinwire/compress/coder.hpp"
#include "thinwire/compress/header.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// The same slots, decoded to where the residuals stand instead of to the gradients. Spans without
/// a residual go behind them.
compress::Plan residual_plan(const compress::Plan& plan) {
  std::vector<compress::CodecSpec> sections = plan.sections();
  for (auto& section : sections) section.density_out = section.density;
  std::vector<compress::Span> spans = plan.spans();
  std::int64_t behind = plan.residual_elements();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const bool has_residual = plan.residual_offset(i) >= 0;
    spans[i].source_offset = has_residual ? plan.residual_offset(i) : behind;
    if (!has_residual) behind += spans[i].length;
  }
  compress::PlanSettings settings = plan.settings();
  settings.dtype = DType::f32;
  return {std::move(sections), std::move(spans), std::move(settings)};
}

}  // namespace

void fold_back(compress::State& state, int chunk, std::span<const std::byte> slots) {
  const compress::Plan& plan = state.plan();
  const compress::Plan target = residual_plan(plan);
  const std::size_t slot_bytes = plan.slot_bytes(chunk, Phase::reduce);
  std::vector<std::byte> relabelled(slots.begin(), slots.end());
  for (int shard = 0; shard < plan.ranks(); ++shard) {
    std::byte* slot = relabelled.data() + static_cast<std::size_t>(shard) * slot_bytes;
    compress::SlotHeader old;
    std::memcpy(&old, slot, sizeof old);
    const auto header = compress::make_header(target, shard, chunk, Phase::gather, old.sequence,
                                              old.flags, old.checksum);
    std::memcpy(slot, &header, sizeof header);
  }
  compress::SlotHeader first;
  std::memcpy(&first, slots.data(), sizeof first);

  std::vector<float> taken(static_cast<std::size_t>(target.source_extent()), 0.0f);
  compress::make_reference_coder(target)->decode(chunk, relabelled, {.sequence = first.sequence},
                                                 view_of(taken));
  float* residual = state.worker_next();
  for (std::int64_t i = 0; i < plan.residual_elements(); ++i) {
    const float value = taken[static_cast<std::size_t>(i)];
    if (value == value) residual[i] += value;  // a non-finite block kept its residual
  }
}

}  // namespace thinwire::comm
