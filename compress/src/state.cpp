#include "thinwire/compress/state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>

#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

Buffer zeros(const std::shared_ptr<MemoryResource>& memory, std::int64_t elements) {
  Buffer buffer{memory, static_cast<std::size_t>(elements) * sizeof(float), "residual"};
  std::fill_n(buffer.as<float>(), elements, 0.0f);
  return buffer;
}

/// Elements [offset, offset + length) of a parameter stand at `first` of a residual buffer.
struct Stretch {
  std::string_view parameter;
  std::int64_t offset;
  std::int64_t length;
  std::int64_t first;
};

std::vector<Stretch> worker_stretches(const Plan& plan) {
  std::vector<Stretch> stretches;
  for (std::size_t i = 0; i < plan.spans().size(); ++i) {
    const Span& span = plan.spans()[i];
    if (plan.residual_offset(i) < 0 || span.length == 0) continue;
    stretches.push_back(
        {span.parameter, span.parameter_offset, span.length, plan.residual_offset(i)});
  }
  return stretches;
}

std::vector<Stretch> server_stretches(const Plan& plan, int shard) {
  std::vector<Stretch> stretches;
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (const Run& run : plan.slot(shard, chunk).runs) {
      for (const Piece& piece : run.pieces) {
        if (piece.server < 0) continue;
        const Span& span = plan.spans()[piece.span];
        stretches.push_back({span.parameter,
                             span.parameter_offset + piece.source - span.source_offset,
                             piece.elements, piece.server});
      }
    }
  }
  return stretches;
}

std::vector<Residual> export_from(const float* values, const std::vector<Stretch>& stretches) {
  std::vector<Residual> residuals;
  residuals.reserve(stretches.size());
  for (const Stretch& stretch : stretches) {
    const float* first = values + stretch.first;
    residuals.push_back(
        {std::string{stretch.parameter}, stretch.offset, {first, first + stretch.length}});
  }
  return residuals;
}

/// A residual never takes up a NaN or Inf, wherever it comes from.
void check(const Residual& residual) {
  const auto size = static_cast<std::int64_t>(residual.values.size());
  THINWIRE_EXPECTS(
      residual.offset >= 0 && residual.offset <= std::numeric_limits<std::int64_t>::max() - size,
      InvalidArgument,
      fmt::format("residual of '{}': offset {} is out of range", residual.parameter,
                  residual.offset));
  const auto bad = std::find_if(residual.values.begin(), residual.values.end(),
                                [](float value) { return !std::isfinite(value); });
  THINWIRE_EXPECTS(bad == residual.values.end(), InvalidArgument,
                   fmt::format("residual of '{}': element {} is {}", residual.parameter,
                               residual.offset + (bad - residual.values.begin()), *bad));
}

std::int64_t import_into(float* values, const std::vector<Stretch>& stretches,
                         std::span<const Residual> residuals) {
  for (const Residual& residual : residuals) check(residual);
  std::multimap<std::string_view, Stretch> by_parameter;
  for (const Stretch& stretch : stretches) by_parameter.emplace(stretch.parameter, stretch);

  std::int64_t taken = 0;
  for (const Residual& residual : residuals) {
    const auto size = static_cast<std::int64_t>(residual.values.size());
    const auto [first, last] = by_parameter.equal_range(residual.parameter);
    for (auto it = first; it != last; ++it) {
      const Stretch& stretch = it->second;
      const std::int64_t from = std::max(residual.offset, stretch.offset);
      const std::int64_t to = std::min(residual.offset + size, stretch.offset + stretch.length);
      if (from >= to) continue;
      std::copy_n(residual.values.begin() + (from - residual.offset), to - from,
                  values + stretch.first + (from - stretch.offset));
      taken += to - from;
    }
  }
  return taken;
}

}  // namespace

State::State(const Plan& plan, int shard, std::shared_ptr<MemoryResource> memory)
    : plan_{&plan}, shard_{shard} {
  THINWIRE_EXPECTS(shard >= 0 && shard < plan.ranks(), InvalidArgument,
                   fmt::format("state: shard {} of a plan for {} ranks", shard, plan.ranks()));
  worker_[0] = zeros(memory, plan.residual_elements());
  if (plan.settings().commit == Commit::double_buffered) {
    worker_[1] = zeros(memory, plan.residual_elements());
  }
  for (Buffer& version : server_) version = zeros(memory, plan.server_elements(shard));
}

const float* State::worker_committed() const { return worker_[worker_current_].as<float>(); }

float* State::worker_next() {
  const bool in_place = plan_->settings().commit == Commit::in_place;
  return worker_[in_place ? worker_current_ : 1 - worker_current_].as<float>();
}

const float* State::server_committed() const { return server_[server_current_].as<float>(); }

float* State::server_next() { return server_[1 - server_current_].as<float>(); }

void State::commit() {
  if (worker_written_ && plan_->settings().commit == Commit::double_buffered) {
    worker_current_ = 1 - worker_current_;
  }
  if (server_written_) server_current_ = 1 - server_current_;
  discard();
}

void State::discard() { worker_written_ = server_written_ = false; }

std::vector<Residual> State::export_worker() const {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: exported in the middle of a step");
  return export_from(worker_committed(), worker_stretches(*plan_));
}

std::vector<Residual> State::export_server() const {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: exported in the middle of a step");
  return export_from(server_committed(), server_stretches(*plan_, shard_));
}

std::int64_t State::import_worker(std::span<const Residual> residuals) {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: imported in the middle of a step");
  return import_into(worker_[worker_current_].as<float>(), worker_stretches(*plan_), residuals);
}

std::int64_t State::import_server(std::span<const Residual> residuals) {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: imported in the middle of a step");
  return import_into(server_[server_current_].as<float>(), server_stretches(*plan_, shard_),
                     residuals);
}

}  // namespace thinwire::compress
