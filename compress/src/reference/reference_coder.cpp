#include <algorithm>

#include "coder_checks.hpp"
#include "fp_environment.hpp"
#include "reference/run_coder.hpp"
#include "thinwire/compress/header.hpp"

namespace thinwire::compress {
namespace {

using reference::ResidualMemory;
using reference::RunCoder;
using reference::RunInputs;

float scale_or_one(const float* scale) { return scale != nullptr ? *scale : 1.0f; }

class ReferenceCoder final : public Coder {
 public:
  explicit ReferenceCoder(const Plan& plan) : plan_{plan} {
    const NonFinite policy = plan.settings().non_finite;
    for (std::uint32_t section = 0; section < plan.sections().size(); ++section) {
      const CodecSpec& spec = plan.sections()[section];
      runs_.push_back(spec.codec == Codec::topk
                          ? reference::make_topk_run_coder(policy, most_elements(section))
                          : reference::make_block_run_coder(spec, policy));
    }
  }

  void encode(int chunk, ConstTensorView gradients, State& state, const CallState& call,
              std::span<std::byte> slots) override {
    check_encode(plan_, chunk, gradients, state, slots);
    const FpEnvironment environment;
    const ResidualMemory worker{state.worker_committed(), state.worker_next()};
    for (int shard = 0; shard < plan_.ranks(); ++shard) {
      const auto slot = slot_of(slots, chunk, Phase::reduce, shard);
      std::fill(slot.begin(), slot.end(), std::byte{0});
      std::uint32_t flags = 0;
      for (const Run& run : plan_.slot(shard, chunk).runs) {
        flags |= coder_of(run).encode(run, gradients, scale_or_one(call.inv_scale), worker,
                                      slot.subspan(run.offset));
      }
      write_header(slot, shard, chunk, Phase::reduce, call.sequence, flags);
    }
    state.mark_worker_written();
  }

  void reduce_encode(int chunk, std::span<const std::byte> slots, State& state,
                     const CallState& call, std::span<std::byte> slot_out) override {
    check_reduce_encode(plan_, chunk, slots, state, slot_out);
    const FpEnvironment environment;
    const int shard = state.shard();
    std::uint32_t flags = check_inputs(slots, chunk, shard, call.sequence);
    const ResidualMemory server{state.server_committed(), state.server_next()};
    std::fill(slot_out.begin(), slot_out.end(), std::byte{0});
    for (const Run& run : plan_.slot(shard, chunk).runs) {
      flags |= coder_of(run).reduce_encode(run, inputs_of(run, slots, chunk), server,
                                           slot_out.subspan(run.offset_out));
    }
    write_header(slot_out, shard, chunk, Phase::gather, call.sequence, flags);
    state.mark_server_written();
  }

  Verdict decode(int chunk, std::span<const std::byte> slots, const CallState& call,
                 TensorView gradients) override {
    check_decode(plan_, chunk, slots, gradients);
    const FpEnvironment environment;
    Verdict verdict;
    for (int shard = 0; shard < plan_.ranks(); ++shard) {
      const auto slot = slot_of(slots, chunk, Phase::gather, shard);
      verdict.flags |= check(slot, chunk, Phase::gather, shard, shard, call.sequence);
    }
    for (int shard = 0; shard < plan_.ranks(); ++shard) {
      const auto slot = slot_of(slots, chunk, Phase::gather, shard);
      for (const Run& run : plan_.slot(shard, chunk).runs) {
        coder_of(run).decode(run, slot.subspan(run.offset_out), scale_or_one(call.out_scale),
                             gradients);
      }
    }
    return verdict;
  }

  Verdict reduce(int chunk, std::span<const std::byte> slots, int shard, const CallState& call,
                 TensorView out, std::int64_t out_origin) override {
    check_reduce(plan_, chunk, slots, shard, out, out_origin);
    const FpEnvironment environment;
    const Verdict verdict{check_inputs(slots, chunk, shard, call.sequence)};
    for (const Run& run : plan_.slot(shard, chunk).runs) {
      coder_of(run).reduce(run, inputs_of(run, slots, chunk), scale_or_one(call.out_scale), out,
                           out_origin);
    }
    return verdict;
  }

 private:
  std::int64_t most_elements(std::uint32_t section) const {
    std::int64_t most = 0;
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      for (int shard = 0; shard < plan_.ranks(); ++shard) {
        for (const Run& run : plan_.slot(shard, chunk).runs) {
          if (run.section == section) most = std::max(most, run.elements);
        }
      }
    }
    return most;
  }

  RunCoder& coder_of(const Run& run) const { return *runs_[run.section]; }

  template <typename Byte>
  std::span<Byte> slot_of(std::span<Byte> slots, int chunk, Phase phase, int index) const {
    const std::size_t bytes = plan_.slot_bytes(chunk, phase);
    return slots.subspan(static_cast<std::size_t>(index) * bytes, bytes);
  }

  RunInputs inputs_of(const Run& run, std::span<const std::byte> slots, int chunk) const {
    return {slots, plan_.slot_bytes(chunk, Phase::reduce), run.offset, plan_.ranks()};
  }

  void write_header(std::span<std::byte> slot, int shard, int chunk, Phase phase,
                    std::uint64_t sequence, std::uint32_t flags) const {
    SlotHeader header = make_header(plan_, shard, chunk, phase, sequence, flags, 0);
    header.checksum = digest(slot.subspan(header_bytes, header.payload_length), 0);
    reference::store(slot.data(), header);
  }

  /// Checks a slot for `shard` from `peer`, header and runs, and returns its flags.
  std::uint32_t check(std::span<const std::byte> slot, int chunk, Phase phase, int shard, int peer,
                      std::uint64_t sequence) const {
    const std::uint32_t flags = check_slot(plan_, shard, chunk, phase, sequence, peer, slot);
    for (const Run& run : plan_.slot(shard, chunk).runs) {
      const std::size_t offset = phase == Phase::reduce ? run.offset : run.offset_out;
      coder_of(run).check(run, phase, slot.subspan(offset), peer);
    }
    return flags;
  }

  /// Checks the N slots that came for a shard and returns their flags together.
  std::uint32_t check_inputs(std::span<const std::byte> slots, int chunk, int shard,
                             std::uint64_t sequence) const {
    std::uint32_t flags = 0;
    for (int peer = 0; peer < plan_.ranks(); ++peer) {
      const auto slot = slot_of(slots, chunk, Phase::reduce, peer);
      flags |= check(slot, chunk, Phase::reduce, shard, peer, sequence);
    }
    return flags;
  }

  const Plan& plan_;
  std::vector<std::unique_ptr<RunCoder>> runs_;  // by section
};

}  // namespace

std::unique_ptr<Coder> make_reference_coder(const Plan& plan) {
  return std::make_unique<ReferenceCoder>(plan);
}

}  // namespace thinwire::compress
