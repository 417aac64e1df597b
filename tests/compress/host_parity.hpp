#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "plans.hpp"
#include "thinwire/compress/coder.hpp"
#include "two_phase.hpp"

/// The host coder beside the reference: everything that a step leaves behind, byte for byte.
namespace thinwire::compress::test {

/// Sets a SIMD target for a scope.
class ForcedTarget {
 public:
  explicit ForcedTarget(const std::string& name) { force_simd_target(name); }
  ~ForcedTarget() { force_simd_target(""); }
  ForcedTarget(const ForcedTarget&) = delete;
  ForcedTarget& operator=(const ForcedTarget&) = delete;
};

/// A tensor that starts one element after an aligned address.
class UnalignedTensor {
 public:
  UnalignedTensor(std::int64_t numel, DType dtype)
      : bytes_{std::make_shared<HostMemory>(),
               (static_cast<std::size_t>(numel) + 1) * size_of(dtype), "test"},
        view_{bytes_.data() + size_of(dtype), numel, dtype, Device::host} {
    std::memset(bytes_.data(), 0, bytes_.size());
  }
  UnalignedTensor(const std::vector<float>& values, DType dtype)
      : UnalignedTensor{static_cast<std::int64_t>(values.size()), dtype} {
    visit_dtype(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::size_t i = 0; i < values.size(); ++i) {
        static_cast<T*>(view_.data)[i] = from_float<T>(values[i]);
      }
    });
  }

  TensorView view() const { return view_; }
  std::vector<std::byte> copy() const {
    const auto* first = static_cast<const std::byte*>(view_.data);
    return {first, first + view_.bytes()};
  }

 private:
  Buffer bytes_;
  TensorView view_;
};

/// Adds what breaks codecs to awkward gradients: NaN, Inf and the largest floats, each in blocks of
/// their own.
inline void poison(std::vector<float>& values, unsigned seed) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::max(),
                       0x1.FEp127f,
                       -0x1.FFp127f,
                       0x1.FFEp127f};
  std::mt19937 random{seed};
  for (std::size_t i = 2000; i < values.size(); i += 3000 + random() % 7000) {
    values[i] = bad[random() % std::size(bad)];
  }
}

struct Scales {
  float in = 1.0f;
  float out = 1.0f;
};

/// Everything that `steps` steps of all ranks leave behind: slots, residuals, results.
inline std::vector<std::vector<std::byte>> trace_of(
    const Plan& plan, const std::vector<std::vector<UnalignedTensor>>& gradients,
    const Scales& scales, const CoderFactory& make_coder) {
  std::vector<std::vector<std::byte>> trace;
  const auto keep = [&](const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    trace.emplace_back(first, first + bytes);
  };
  TwoPhase world{plan, make_coder};
  const CallState call{.sequence = 0, .inv_scale = &scales.in, .out_scale = &scales.out};
  for (const auto& of_ranks : gradients) {
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      world.encode(rank, of_ranks[static_cast<std::size_t>(rank)].view(), call);
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
        const auto slots = world.sent(rank, chunk);
        keep(slots.data(), slots.size());
      }
    }
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      world.reduce_encode(rank, call);
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
        UnalignedTensor out{plan.source_extent(), plan.settings().dtype};
        world.coder(rank).reduce(chunk, world.exchange(rank, chunk), rank, call, out.view(), 0);
        trace.push_back(out.copy());
      }
    }
    for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
      keep(world.reduced(chunk).data(), world.reduced(chunk).size());
    }
    UnalignedTensor out{plan.source_extent(), plan.settings().dtype};
    world.decode(0, out.view(), call);
    trace.push_back(out.copy());
    world.commit();
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      for (const auto& residuals :
           {world.state(rank).export_worker(), world.state(rank).export_server()}) {
        for (const Residual& residual : residuals) {
          keep(residual.values.data(), residual.values.size() * sizeof(float));
        }
      }
    }
  }
  return trace;
}

/// Runs the plan with the reference and with the host coder on every target and with 1 to 4
/// threads, and expects the same bytes everywhere.
inline void expect_parity(const Plan& plan,
                          const std::vector<std::vector<std::vector<float>>>& data,
                          const Scales& scales = {}) {
  std::vector<std::vector<UnalignedTensor>> gradients;
  for (const auto& of_ranks : data) {
    gradients.emplace_back();
    for (const auto& values : of_ranks) {
      gradients.back().emplace_back(values, plan.settings().dtype);
    }
  }
  const auto expected = trace_of(plan, gradients, scales, make_reference_coder);
  int threads = 1;
  for (const std::string& target : simd_targets()) {
    const ForcedTarget forced{target};
    const auto pool = std::make_shared<WorkerPool>(threads);
    const auto actual =
        trace_of(plan, gradients, scales, [&](const Plan& p) { return make_host_coder(p, pool); });
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(actual[i].size(), expected[i].size());
      const auto differs =
          std::mismatch(expected[i].begin(), expected[i].end(), actual[i].begin()).first;
      ASSERT_EQ(differs - expected[i].begin(), static_cast<std::ptrdiff_t>(expected[i].size()))
          << "record " << i << " of " << expected.size()
          << " differs from the reference at this byte; " << target << ", " << threads
          << " threads";
    }
    threads = threads % 4 + 1;
  }
}

}  // namespace thinwire::compress::test
