#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/compress/plan.hpp"

/// The gradients that allreduce benchmarks reduce, and what must come out.
namespace thinwire::bench {

using Bytes = std::vector<std::byte>;

/// Roughly gaussian values that every rank can make for every other.
float gradient_value(int rank, std::int64_t i);

/// 0 to 3: the sum over up to 85 ranks is exact in every dtype, in any order.
float exact_value(int rank, std::int64_t i);
float exact_sum(int ranks, std::int64_t i);

Bytes make_tensor(std::int64_t elements, DType dtype,
                  const std::function<float(std::int64_t)>& value);

/// What `rank` puts into a call of `plan`: exact values where the plan is plain.
Bytes make_input(const compress::Plan& plan, int rank, std::int64_t elements, DType dtype);

/// Bits of the first call on fresh residuals.
Bytes expected_result(const compress::Plan& plan, int ranks, std::int64_t elements, DType dtype);

std::int64_t count_different(const Bytes& a, const Bytes& b, std::size_t width);

/// Collective.
std::int64_t sum_over_ranks(comm::Communicator& communicator, std::int64_t value);

}  // namespace thinwire::bench
