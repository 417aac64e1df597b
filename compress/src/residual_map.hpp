#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "thinwire/compress/plan.hpp"
#include "thinwire/compress/state.hpp"

/// Where parameters stand in residual buffers, for states in host and in device memory.
namespace thinwire::compress {

/// Elements [offset, offset + length) of a parameter stand at `first` of a residual buffer.
struct ResidualStretch {
  std::string_view parameter;
  std::int64_t offset;
  std::int64_t length;
  std::int64_t first;
};

std::vector<ResidualStretch> worker_stretches(const Plan& plan);
std::vector<ResidualStretch> server_stretches(const Plan& plan, int shard);

/// The stretches of a host copy of a residual buffer, as residuals.
std::vector<Residual> export_from(const float* values,
                                  const std::vector<ResidualStretch>& stretches);

/// Copies what the stretches have of the residuals to a host copy; returns the elements taken.
/// Throws InvalidArgument for a residual with a NaN or Inf, before anything is copied.
std::int64_t import_into(float* values, const std::vector<ResidualStretch>& stretches,
                         std::span<const Residual> residuals);

}  // namespace thinwire::compress
