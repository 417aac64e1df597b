#pragma once

#include <fmt/format.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gpu_ranks.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/compress/state.hpp"

/// Compares the GPU with the reference coder, byte for byte: payloads of both phases, residuals of
/// both sides, results, verdicts.
namespace thinwire::compress::test {

template <typename T>
std::string first_difference(std::span<const T> gpu, std::span<const T> cpu) {
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    if (std::memcmp(&gpu[i], &cpu[i], sizeof(T)) != 0) {
      return fmt::format("element {} of {}", i, cpu.size());
    }
  }
  return "";
}

inline std::string compare_bytes(const std::vector<std::byte>& gpu,
                                 const std::vector<std::byte>& cpu) {
  if (gpu.size() == cpu.size() && std::memcmp(gpu.data(), cpu.data(), cpu.size()) == 0) return "";
  return "bytes: " + first_difference<std::byte>(gpu, cpu);
}

inline std::string compare_residuals(const std::vector<Residual>& gpu,
                                     const std::vector<Residual>& cpu) {
  if (gpu.size() != cpu.size()) return "number of residuals";
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    const auto where = first_difference<float>(gpu[i].values, cpu[i].values);
    if (!where.empty()) return fmt::format("{} of {}", where, cpu[i].parameter);
  }
  return "";
}

/// The same call by the reference coder.
class CpuRanks {
 public:
  explicit CpuRanks(const Plan& plan) : plan_{plan}, coder_{make_reference_coder(plan)} {
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      states_.emplace_back(plan, rank, std::make_shared<HostMemory>());
      sent_.emplace_back(plan.payload_bytes(Phase::reduce));
    }
    received_.resize(plan.payload_bytes(Phase::reduce));
    reduced_.resize(plan.payload_bytes(Phase::gather));
  }

  Verdict allreduce(const std::vector<std::vector<std::byte>>& gradients, const CallState& call,
                    std::vector<std::byte>& out) {
    const DType dtype = plan_.settings().dtype;
    const auto ranks = static_cast<std::size_t>(plan_.ranks());
    Verdict verdict;
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      const std::size_t bytes = plan_.slot_bytes(chunk, Phase::reduce);
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        coder_->encode(chunk, {gradients[rank].data(), plan_.source_extent(), dtype}, states_[rank],
                       call, part(sent_[rank], chunk, Phase::reduce));
      }
      for (std::size_t owner = 0; owner < ranks; ++owner) {
        const auto received = part(received_, chunk, Phase::reduce);
        for (std::size_t rank = 0; rank < ranks; ++rank) {
          std::memcpy(received.data() + rank * bytes,
                      part(sent_[rank], chunk, Phase::reduce).data() + owner * bytes, bytes);
        }
        const std::size_t out_bytes = plan_.slot_bytes(chunk, Phase::gather);
        coder_->reduce_encode(
            chunk, received, states_[owner], call,
            part(reduced_, chunk, Phase::gather).subspan(owner * out_bytes, out_bytes));
      }
      verdict.flags |= coder_
                           ->decode(chunk, part(reduced_, chunk, Phase::gather), call,
                                    {out.data(), plan_.source_extent(), dtype})
                           .flags;
    }
    return verdict;
  }

  State& state(int rank) { return states_[static_cast<std::size_t>(rank)]; }
  const std::vector<std::byte>& sent(int rank) { return sent_[static_cast<std::size_t>(rank)]; }
  const std::vector<std::byte>& reduced() const { return reduced_; }

 private:
  std::span<std::byte> part(std::vector<std::byte>& buffer, int chunk, Phase phase) const {
    return std::span{buffer}.subspan(
        plan_.chunk_offset(chunk, phase),
        static_cast<std::size_t>(plan_.ranks()) * plan_.slot_bytes(chunk, phase));
  }

  const Plan& plan_;
  std::unique_ptr<Coder> coder_;
  std::vector<State> states_;
  std::vector<std::vector<std::byte>> sent_;
  std::vector<std::byte> received_;
  std::vector<std::byte> reduced_;
};

/// A bucket on both.
class Parity {
 public:
  Parity(Gpu& gpu, const Plan& plan, int misalignment = 0, float inv_scale = 1.0f,
         float out_scale = 1.0f)
      : gpu_{gpu},
        plan_{plan},
        cpu_{plan},
        ranks_{gpu, plan, misalignment},
        inv_scale_{inv_scale},
        out_scale_{out_scale},
        inv_{gpu.upload<float>(std::span{&inv_scale_, 1})},
        scale_{gpu.upload<float>(std::span{&out_scale_, 1})} {}

  /// Runs a step on both; tells what differs, or nothing.
  std::string step(const std::vector<std::vector<std::byte>>& gradients) {
    const std::uint64_t sequence = sequence_++;
    for (int rank = 0; rank < plan_.ranks(); ++rank) {
      ranks_.set_gradients(rank, gradients[static_cast<std::size_t>(rank)]);
    }
    ranks_.fill_out(0xAB);
    std::vector<std::byte> out(ranks_.tensor_bytes(), std::byte{0xAB});
    ranks_.enqueue({.stream = {}, .inv_scale = inv_.as<float>(), .out_scale = scale_.as<float>()});
    ranks_.step().end(ranks_.stream());
    const Verdict verdict = cpu_.allreduce(gradients, {sequence, &inv_scale_, &out_scale_}, out);
    const bool commits = plan_.settings().commit == Commit::in_place || verdict.finite();
    gpu_.stream.synchronize();
    const auto at = [&](const std::string& what, const std::string& difference) {
      return fmt::format("step {}: {}: {}", sequence, what, difference);
    };
    if (const auto error = ranks_.ring().poll()) return at("error", describe(*error));
    const auto report = ranks_.step().report(sequence);
    if (!report || report->flags != verdict.flags) return at("verdict", "flags");
    for (int rank = 0; rank < plan_.ranks(); ++rank) {
      const auto sent = compare_bytes(ranks_.host_sent(rank), cpu_.sent(rank));
      if (!sent.empty()) return at(fmt::format("sent by {}", rank), sent);
      if (commits) {
        cpu_.state(rank).commit();
      } else {
        cpu_.state(rank).discard();
      }
      const auto worker = compare_residuals(ranks_.state(rank).export_worker(ranks_.stream()),
                                            cpu_.state(rank).export_worker());
      if (!worker.empty()) return at(fmt::format("worker residual of {}", rank), worker);
      const auto server = compare_residuals(ranks_.state(rank).export_server(ranks_.stream()),
                                            cpu_.state(rank).export_server());
      if (!server.empty()) return at(fmt::format("server residual of {}", rank), server);
    }
    const auto reduced = compare_bytes(ranks_.host_reduced(), cpu_.reduced());
    if (!reduced.empty()) return at("reduced", reduced);
    const auto result = compare_bytes(ranks_.host_out(), out);
    if (!result.empty()) return at("result", result);
    return "";
  }

 private:
  Gpu& gpu_;
  const Plan& plan_;
  CpuRanks cpu_;
  GpuRanks ranks_;
  float inv_scale_;
  float out_scale_;
  Buffer inv_;
  Buffer scale_;
  std::uint64_t sequence_ = 0;
};

}  // namespace thinwire::compress::test
