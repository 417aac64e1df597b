#include <fmt/format.h>
#include <gtest/gtest.h>

#include "gpu_ranks.hpp"
#include "random_case.hpp"
#include "thinwire/compress/state.hpp"

/// GPU = CPU reference, byte for byte: payloads of both phases, residuals of both sides, results,
/// verdicts.
namespace thinwire::compress::test {
namespace {

/// "none" fills the sections of mixed buckets; topk has its own share.
const std::vector<std::string> all_codecs{
    "sign",      "sign", "sign:rms", "sign+noef", "int8",      "int8+noef", "int4",
    "int4+noef", "bf16", "bf16+ef",  "fp16",      "fp16+noef", "none"};

template <typename T>
std::string first_difference(std::span<const T> gpu, std::span<const T> cpu) {
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    if (std::memcmp(&gpu[i], &cpu[i], sizeof(T)) != 0) {
      return fmt::format("element {} of {}", i, cpu.size());
    }
  }
  return "";
}

std::string compare_bytes(const std::vector<std::byte>& gpu, const std::vector<std::byte>& cpu) {
  if (gpu.size() == cpu.size() && std::memcmp(gpu.data(), cpu.data(), cpu.size()) == 0) return "";
  return "bytes: " + first_difference<std::byte>(gpu, cpu);
}

std::string compare_residuals(const std::vector<Residual>& gpu, const std::vector<Residual>& cpu) {
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

/// Runs steps on both and returns what differs, or nothing.
std::string compare(Gpu& gpu, std::uint32_t seed, const std::vector<std::string>& codecs) {
  RandomCase random{seed, codecs};
  const Plan& plan = random.plan();
  if (plan.plain()) return "";
  CpuRanks cpu{plan};
  GpuRanks ranks{gpu, plan, random.misalignment};
  const Buffer inv = gpu.upload<float>(std::span{&random.inv_scale, 1});
  const Buffer scale = gpu.upload<float>(std::span{&random.out_scale, 1});
  const CudaCall scales{.stream = {}, .inv_scale = inv.as<float>(), .out_scale = scale.as<float>()};
  constexpr std::uint64_t steps = 2;
  for (std::uint64_t sequence = 0; sequence < steps; ++sequence) {
    std::vector<std::vector<std::byte>> gradients;
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      gradients.push_back(random.gradients());
      ranks.set_gradients(rank, gradients.back());
    }
    ranks.fill_out(0xAB);
    std::vector<std::byte> out(ranks.tensor_bytes(), std::byte{0xAB});
    ranks.enqueue(scales);
    ranks.step().end(ranks.stream());
    const CallState call{sequence, &random.inv_scale, &random.out_scale};
    const Verdict verdict = cpu.allreduce(gradients, call, out);
    const bool commits = plan.settings().commit == Commit::in_place || verdict.finite();
    gpu.stream.synchronize();
    const auto at = [&](const std::string& what, const std::string& difference) {
      return fmt::format("seed {} step {}: {}: {}", seed, sequence, what, difference);
    };
    if (const auto error = ranks.ring().poll()) return at("error", describe(*error));
    const auto report = ranks.step().report(sequence);
    if (!report || report->flags != verdict.flags) return at("verdict", "flags");
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      const auto sent = compare_bytes(ranks.host_sent(rank), cpu.sent(rank));
      if (!sent.empty()) return at(fmt::format("sent by {}", rank), sent);
      if (commits) {
        cpu.state(rank).commit();
      } else {
        cpu.state(rank).discard();
      }
      const auto worker = compare_residuals(ranks.state(rank).export_worker(ranks.stream()),
                                            cpu.state(rank).export_worker());
      if (!worker.empty()) return at(fmt::format("worker residual of {}", rank), worker);
      const auto server = compare_residuals(ranks.state(rank).export_server(ranks.stream()),
                                            cpu.state(rank).export_server());
      if (!server.empty()) return at(fmt::format("server residual of {}", rank), server);
    }
    const auto reduced = compare_bytes(ranks.host_reduced(), cpu.reduced());
    if (!reduced.empty()) return at("reduced", reduced);
    const auto result = compare_bytes(ranks.host_out(), out);
    if (!result.empty()) return at("result", result);
  }
  return "";
}

class ParityBatch : public testing::TestWithParam<int> {};

TEST_P(ParityBatch, RandomCases_ZeroBytesDiffer) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  constexpr int cases = 640;
  for (int i = 0; i < cases; ++i) {
    const auto seed = static_cast<std::uint32_t>(GetParam() * cases + i);
    ASSERT_EQ(compare(gpu, seed, all_codecs), "");
  }
}

// 16 x 640 = 10,240 cases.
INSTANTIATE_TEST_SUITE_P(Gpu, ParityBatch, testing::Range(0, 16));

class ParityCodec : public testing::TestWithParam<std::string> {};

// Few enough to run under compute-sanitizer.
TEST_P(ParityCodec, FewCases_ZeroBytesDiffer) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  for (std::uint32_t seed = 0; seed < 6; ++seed) {
    ASSERT_EQ(compare(gpu, 900000 + seed, {GetParam()}), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, ParityCodec,
                         testing::Values("sign", "sign:rms", "int8", "int4", "bf16+ef", "fp16"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace thinwire::compress::test
