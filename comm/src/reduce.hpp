#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/core/dtype.hpp"

/// The arithmetic of plain reductions. Sums are made in fp32 and rounded once; a fp16 sum beyond
/// the largest finite number becomes Inf, as a loss scaler expects it. A NaN in any input gives
/// NaN.
namespace thinwire::comm {

/// out[i] = inputs[0][i] + inputs[1][i] + .., in this order from +0 (or the largest, for max); avg
/// multiplies the sum by 1/inputs.size(). `out` may be one of the inputs.
void reduce_in_order(DType dtype, ReduceOp op, std::span<const std::byte* const> inputs,
                     std::byte* out, std::int64_t numel);

/// data[i] *= factor, in fp32.
void scale(DType dtype, std::byte* data, std::int64_t numel, float factor);

}  // namespace thinwire::comm
