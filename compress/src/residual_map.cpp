#include "residual_map.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

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

}  // namespace

std::vector<ResidualStretch> worker_stretches(const Plan& plan) {
  std::vector<ResidualStretch> stretches;
  for (std::size_t i = 0; i < plan.spans().size(); ++i) {
    const Span& span = plan.spans()[i];
    if (plan.residual_offset(i) < 0 || span.length == 0) continue;
    stretches.push_back(
        {span.parameter, span.parameter_offset, span.length, plan.residual_offset(i)});
  }
  return stretches;
}

std::vector<ResidualStretch> server_stretches(const Plan& plan, int shard) {
  std::vector<ResidualStretch> stretches;
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

std::vector<Residual> export_from(const float* values,
                                  const std::vector<ResidualStretch>& stretches) {
  std::vector<Residual> residuals;
  residuals.reserve(stretches.size());
  for (const ResidualStretch& stretch : stretches) {
    const float* first = values + stretch.first;
    residuals.push_back(
        {std::string{stretch.parameter}, stretch.offset, {first, first + stretch.length}});
  }
  return residuals;
}

std::int64_t import_into(float* values, const std::vector<ResidualStretch>& stretches,
                         std::span<const Residual> residuals) {
  for (const Residual& residual : residuals) check(residual);
  std::multimap<std::string_view, ResidualStretch> by_parameter;
  for (const ResidualStretch& stretch : stretches) by_parameter.emplace(stretch.parameter, stretch);

  std::int64_t taken = 0;
  for (const Residual& residual : residuals) {
    const auto size = static_cast<std::int64_t>(residual.values.size());
    const auto [first, last] = by_parameter.equal_range(residual.parameter);
    for (auto it = first; it != last; ++it) {
      const ResidualStretch& stretch = it->second;
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

}  // namespace thinwire::compress
