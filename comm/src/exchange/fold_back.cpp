#include "fold_back.hpp"

#include <fmt/format.h>

#include <cstring>
#include <utility>
#include <vector>

#include "thinwire/compress/coder.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

using compress::Phase;

/// The same spans and slots, as what an allreduce gathers.
compress::Plan gathered_plan(const compress::Plan& plan) {
  std::vector<compress::CodecSpec> sections = plan.sections();
  for (auto& section : sections) section.density_out = section.density;
  compress::PlanSettings settings = plan.settings();
  settings.dtype = DType::f32;
  settings.operation = compress::Operation::allreduce;
  return {std::move(sections), plan.spans(), std::move(settings)};
}

}  // namespace

void fold_back(compress::State& state, int chunk, std::span<const std::byte> slots) {
  const compress::Plan& plan = state.plan();
  const compress::Plan target = gathered_plan(plan);
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
  for (std::size_t i = 0; i < plan.spans().size(); ++i) {
    if (plan.residual_offset(i) < 0) continue;
    const compress::Span& span = plan.spans()[i];
    for (std::int64_t k = 0; k < span.length; ++k) {
      const float value = taken[static_cast<std::size_t>(span.source_offset + k)];
      if (value == value) residual[plan.residual_offset(i) + k] += value;  // else it was kept
    }
  }
}

void take_back(compress::State& state, std::span<const int> chunks,
               const std::function<std::span<const std::byte>(int)>& encoded) noexcept {
  if (state.plan().settings().commit == compress::Commit::in_place) {
    try {
      for (const int chunk : chunks) {
        if (const auto slots = encoded(chunk); !slots.empty()) fold_back(state, chunk, slots);
      }
    } catch (const std::exception& error) {
      log(LogLevel::error,
          fmt::format("residuals of a failed call could not be restored: {}", error.what()));
    }
  }
  state.discard();
}

}  // namespace thinwire::comm
