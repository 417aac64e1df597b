#pragma once

#include <cstddef>
#include <span>

#include "thinwire/compress/coder.hpp"

/// What every coder asks of the arguments of its verbs. All throw InvalidArgument naming the verb.
namespace thinwire::compress {

void check_chunk(const char* verb, const Plan& plan, int chunk);
void check_tensor(const char* verb, const ConstTensorView& tensor, DType dtype, Device device,
                  std::int64_t least);
void check_slots(const char* verb, std::size_t bytes, std::size_t count, std::size_t slot_bytes);
void check_reduce_out(const Plan& plan, int chunk, int shard, const ConstTensorView& out,
                      Device device, std::int64_t out_origin);

/// All of a host coder's.
void check_encode(const Plan& plan, int chunk, const ConstTensorView& gradients, const State& state,
                  std::span<const std::byte> slots);

void check_reduce_encode(const Plan& plan, int chunk, std::span<const std::byte> slots,
                         const State& state, std::span<const std::byte> slot_out);

void check_decode(const Plan& plan, int chunk, std::span<const std::byte> slots,
                  const TensorView& gradients);

void check_reduce(const Plan& plan, int chunk, std::span<const std::byte> slots, int shard,
                  const TensorView& out, std::int64_t out_origin);

}  // namespace thinwire::compress
