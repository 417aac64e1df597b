#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "thinwire/compress/coder.hpp"

/// A compressed allreduce among ranks that are loop indices: the transport is memcpy.
namespace thinwire::compress::test {

using CoderFactory = std::function<std::unique_ptr<Coder>(const Plan&)>;

class TwoPhase {
 public:
  explicit TwoPhase(const Plan& plan, const CoderFactory& make_coder = make_reference_coder)
      : plan_{plan} {
    const auto memory = std::make_shared<HostMemory>();
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      coders_.push_back(make_coder(plan));
      states_.emplace_back(plan, rank, memory);
      sent_.push_back(Buffer{memory, plan.payload_bytes(Phase::reduce), "payload"});
    }
    received_ = Buffer{memory, plan.payload_bytes(Phase::reduce), "payload"};
    reduced_ = Buffer{memory, plan.payload_bytes(Phase::gather), "payload"};
  }

  State& state(int rank) { return states_[static_cast<std::size_t>(rank)]; }
  Coder& coder(int rank) { return *coders_[static_cast<std::size_t>(rank)]; }

  /// What `rank` sent of a chunk, N slots.
  std::span<std::byte> sent(int rank, int chunk) {
    return part(sent_[static_cast<std::size_t>(rank)], chunk, Phase::reduce);
  }
  /// What the owners sent of a chunk, N slots.
  std::span<std::byte> reduced(int chunk) { return part(reduced_, chunk, Phase::gather); }

  /// What the last exchange() of a chunk brought together, N slots.
  std::span<const std::byte> received(int chunk) const {
    return part(received_, chunk, Phase::reduce);
  }

  void encode(int rank, const ConstTensorView& gradients, CallState call = {}) {
    call.sequence = sequence_;
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      coder(rank).encode(chunk, gradients, state(rank), call, sent(rank, chunk));
    }
  }

  /// The N slots that all ranks sent for `shard`.
  std::span<const std::byte> exchange(int shard, int chunk) {
    const auto to = part(received_, chunk, Phase::reduce);
    const std::size_t bytes = plan_.slot_bytes(chunk, Phase::reduce);
    for (int rank = 0; rank < plan_.ranks(); ++rank) {
      std::memcpy(to.data() + static_cast<std::size_t>(rank) * bytes,
                  sent(rank, chunk).data() + static_cast<std::size_t>(shard) * bytes, bytes);
    }
    return to;
  }

  void reduce_encode(int rank, CallState call = {}) {
    call.sequence = sequence_;
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      const std::size_t bytes = plan_.slot_bytes(chunk, Phase::gather);
      coder(rank).reduce_encode(
          chunk, exchange(rank, chunk), state(rank), call,
          reduced(chunk).subspan(static_cast<std::size_t>(rank) * bytes, bytes));
    }
  }

  Verdict decode(int rank, const TensorView& out, CallState call = {}) {
    call.sequence = sequence_;
    Verdict verdict;
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      verdict.flags |= coder(rank).decode(chunk, reduced(chunk), call, out).flags;
    }
    return verdict;
  }

  /// One step of all ranks; leaves it to the caller to commit. Rank 0 decodes to `out`.
  Verdict allreduce(const std::vector<std::vector<float>>& gradients, std::vector<float>& out,
                    const CallState& call = {}) {
    ++sequence_;
    for (int rank = 0; rank < plan_.ranks(); ++rank) {
      encode(rank, const_view_of(gradients[static_cast<std::size_t>(rank)]), call);
    }
    for (int rank = 0; rank < plan_.ranks(); ++rank) reduce_encode(rank, call);
    out.resize(static_cast<std::size_t>(plan_.source_extent()));
    return decode(0, view_of(std::span<float>{out}), call);
  }

  void commit() {
    for (State& state : states_) state.commit();
  }
  void discard() {
    for (State& state : states_) state.discard();
  }

  /// mean(e) + r by source element, from the committed residuals: what is still owed to the model.
  std::vector<double> owed() {
    std::vector<double> result(static_cast<std::size_t>(plan_.source_extent()), 0.0);
    const auto add = [&](const std::vector<Residual>& residuals, double weight) {
      for (const Residual& residual : residuals) {
        for (const Span& span : plan_.spans()) {
          if (span.parameter != residual.parameter) continue;
          const std::int64_t first = span.source_offset + residual.offset - span.parameter_offset;
          if (first < span.source_offset || first >= span.source_offset + span.length) continue;
          for (std::size_t i = 0; i < residual.values.size(); ++i) {
            result[static_cast<std::size_t>(first) + i] +=
                weight * static_cast<double>(residual.values[i]);
          }
        }
      }
    };
    for (const State& state : states_) {
      add(state.export_worker(), 1.0 / plan_.ranks());
      add(state.export_server(), 1.0);
    }
    return result;
  }

 private:
  std::span<std::byte> part(const Buffer& buffer, int chunk, Phase phase) const {
    return {buffer.data() + plan_.chunk_offset(chunk, phase),
            static_cast<std::size_t>(plan_.ranks()) * plan_.slot_bytes(chunk, phase)};
  }

  const Plan& plan_;
  std::uint64_t sequence_ = 0;
  std::vector<std::unique_ptr<Coder>> coders_;
  std::vector<State> states_;
  std::vector<Buffer> sent_;
  Buffer received_;
  Buffer reduced_;
};

inline const std::vector<std::string> codecs_with_feedback{
    "bf16+ef", "fp16", "int8", "int4", "sign", "sign:rms", "topk:0.05", "topk:0.05/0.1"};
/// Bits, so that -0 and NaN compare too.
inline std::vector<std::uint32_t> bits(std::span<const float> values) {
  std::vector<std::uint32_t> result;
  for (const float value : values) result.push_back(std::bit_cast<std::uint32_t>(value));
  return result;
}

/// Numbers around 1e-3 with some zeros, a dead stretch, denormals and a few large ones: what
/// gradients look like, and what breaks codecs.
inline std::vector<float> awkward_gradients(std::int64_t n, unsigned seed) {
  std::mt19937 random{seed};
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto draw = random();
    const float magnitude = static_cast<float>(draw >> 8) * 0x1p-34f;
    values[i] = (draw & 1u) != 0 ? -magnitude : magnitude;
    if (draw % 17 == 0) values[i] = 0.0f;
    if (draw % 19 == 0) values[i] = -0.0f;
    if (draw % 101 == 0) values[i] *= 1000.0f;
    if (draw % 103 == 0) values[i] *= 0x1p-130f;
    if (i / 64 % 7 == 3) values[i] = 0.0f;  // groups that got no gradient
  }
  return values;
}

/// One vector a rank.
inline std::vector<std::vector<float>> awkward_gradients_of_ranks(int ranks, std::int64_t n,
                                                                  unsigned seed) {
  std::vector<std::vector<float>> gradients;
  for (int rank = 0; rank < ranks; ++rank) {
    gradients.push_back(awkward_gradients(n, 1000 * seed + static_cast<unsigned>(rank)));
  }
  return gradients;
}

}  // namespace thinwire::compress::test
