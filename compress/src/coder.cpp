#include "thinwire/compress/coder.hpp"

#include <fmt/format.h>

#include "coder_checks.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
void check_chunk(const char* verb, const Plan& plan, int chunk) {
  THINWIRE_EXPECTS(!plan.plain(), InvalidArgument,
                   fmt::format("{}: a plan that is wholly none has no payload", verb));
  THINWIRE_EXPECTS(chunk >= 0 && chunk < plan.chunks(), InvalidArgument,
                   fmt::format("{}: chunk {} of {}", verb, chunk, plan.chunks()));
}

void check_tensor(const char* verb, const ConstTensorView& tensor, DType dtype, Device device,
                  std::int64_t least) {
  THINWIRE_EXPECTS(tensor.dtype == dtype, InvalidArgument,
                   fmt::format("{}: the tensor is {}, the plan is for {}", verb,
                               to_string(tensor.dtype), to_string(dtype)));
  THINWIRE_EXPECTS(tensor.numel >= least && (tensor.data != nullptr || least == 0), InvalidArgument,
                   fmt::format("{}: the tensor has {} elements at {}, the plan needs {}", verb,
                               tensor.numel, fmt::ptr(tensor.data), least));
  THINWIRE_EXPECTS(tensor.device == device || tensor.numel == 0, InvalidArgument,
                   fmt::format("{}: the tensor is not in {} memory", verb,
                               device == Device::host ? "host" : "device"));
}

void check_slots(const char* verb, std::size_t bytes, std::size_t count, std::size_t slot_bytes) {
  THINWIRE_EXPECTS(bytes == count * slot_bytes, InvalidArgument,
                   fmt::format("{}: the slot buffer has {} bytes, the plan needs {} x {}", verb,
                               bytes, count, slot_bytes));
}

void check_reduce_out(const Plan& plan, int chunk, int shard, const ConstTensorView& out,
                      Device device, std::int64_t out_origin) {
  THINWIRE_EXPECTS(shard >= 0 && shard < plan.ranks(), InvalidArgument,
                   fmt::format("reduce: shard {} of {}", shard, plan.ranks()));
  check_tensor("reduce", out, plan.settings().dtype, device, 0);
  for (const Run& run : plan.slot(shard, chunk).runs) {
    for (const Piece& piece : run.pieces) {
      THINWIRE_EXPECTS(
          out.data != nullptr && piece.source >= out_origin &&
              piece.source + piece.elements - out_origin <= out.numel,
          InvalidArgument,
          fmt::format("reduce: source elements [{}, {}) are not in the {} elements from {}",
                      piece.source, piece.source + piece.elements, out.numel, out_origin));
    }
  }
}

namespace {

void check_state(const char* verb, const Plan& plan, const State& state) {
  THINWIRE_EXPECTS(&state.plan() == &plan || state.plan().id() == plan.id(), InvalidArgument,
                   fmt::format("{}: the state belongs to another plan", verb));
}

std::size_t ranks_of(const Plan& plan) { return static_cast<std::size_t>(plan.ranks()); }

}  // namespace

bool Verdict::finite() const { return (flags & flag_non_finite) == 0; }

void check_encode(const Plan& plan, int chunk, const ConstTensorView& gradients, const State& state,
                  std::span<const std::byte> slots) {
  check_chunk("encode", plan, chunk);
  check_tensor("encode", gradients, plan.settings().dtype, Device::host, plan.source_extent());
  check_state("encode", plan, state);
  check_slots("encode", slots.size(), ranks_of(plan), plan.slot_bytes(chunk, Phase::reduce));
}

void check_reduce_encode(const Plan& plan, int chunk, std::span<const std::byte> slots,
                         const State& state, std::span<const std::byte> slot_out) {
  check_chunk("reduce_encode", plan, chunk);
  check_state("reduce_encode", plan, state);
  check_slots("reduce_encode", slots.size(), ranks_of(plan), plan.slot_bytes(chunk, Phase::reduce));
  check_slots("reduce_encode", slot_out.size(), 1, plan.slot_bytes(chunk, Phase::gather));
}

void check_decode(const Plan& plan, int chunk, std::span<const std::byte> slots,
                  const TensorView& gradients) {
  check_chunk("decode", plan, chunk);
  check_tensor("decode", gradients, plan.settings().dtype, Device::host, plan.source_extent());
  check_slots("decode", slots.size(), ranks_of(plan), plan.slot_bytes(chunk, Phase::gather));
}

void check_reduce(const Plan& plan, int chunk, std::span<const std::byte> slots, int shard,
                  const TensorView& out, std::int64_t out_origin) {
  check_chunk("reduce", plan, chunk);
  check_reduce_out(plan, chunk, shard, out, Device::host, out_origin);
  check_slots("reduce", slots.size(), ranks_of(plan), plan.slot_bytes(chunk, Phase::reduce));
}

}  // namespace thinwire::compress
