#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "host_parity.hpp"
#include "simd/kernels.hpp"

namespace thinwire::compress {
namespace {

using test::awkward_gradients_of_ranks;
using test::contiguous_spans;
using test::expect_parity;
using test::poison;
using test::with_ranks;

using Data = std::vector<std::vector<std::vector<float>>>;

Data awkward_steps(int steps, int ranks, std::int64_t n) {
  Data data;
  for (int step = 0; step < steps; ++step) {
    data.push_back(awkward_gradients_of_ranks(ranks, n, static_cast<unsigned>(step) + 1));
  }
  return data;
}

class HostParity : public testing::TestWithParam<std::string> {};

TEST_P(HostParity, AnyLength_SameBytesAsReference) {
  for (const std::int64_t n : {0, 1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025,
                               4095, 4096, 4097, 70001}) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      SCOPED_TRACE(fmt::format("n={} {}", n, to_string(dtype)));
      PlanSettings settings = with_ranks(n % 3 == 0 ? 2 : 1);
      settings.dtype = dtype;
      const Plan plan{{parse_codec(GetParam())}, contiguous_spans({n}), settings};
      if (plan.plain()) continue;
      expect_parity(plan, awkward_steps(2, plan.ranks(), n), {.in = 0.125f, .out = 3.0f});
    }
  }
}

TEST_P(HostParity, ManySpansRanksAndChunks_SameBytesAsReference) {
  const std::vector<std::int64_t> lengths{1000, 3, 0, 1, 64, 2048, 63, 5000, 129, 17, 255, 9000};
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const int chunks : {1, 3}) {
      for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
        SCOPED_TRACE(
            fmt::format("ranks={} chunks={} commit={}", ranks, chunks, static_cast<int>(commit)));
        PlanSettings settings = with_ranks(ranks, chunks);
        settings.commit = commit;
        const Plan plan{{parse_codec(GetParam()), parse_codec("none"), parse_codec("int4")},
                        [&] {
                          auto spans = contiguous_spans(lengths);
                          spans[4].section = 1;
                          spans[7].section = 2;
                          return spans;
                        }(),
                        settings};
        expect_parity(plan, awkward_steps(3, ranks, plan.elements()));
      }
    }
  }
}

TEST_P(HostParity, NonFiniteValues_SameBytesAsReference) {
  for (const NonFinite policy : {NonFinite::propagate, NonFinite::zero}) {
    for (const Commit commit : {Commit::in_place, Commit::double_buffered}) {
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        SCOPED_TRACE(fmt::format("policy={} commit={} {}", static_cast<int>(policy),
                                 static_cast<int>(commit), to_string(dtype)));
        PlanSettings settings = with_ranks(3);
        settings.non_finite = policy;
        settings.commit = commit;
        settings.dtype = dtype;
        const Plan plan{{parse_codec(GetParam())}, contiguous_spans({30000, 77, 50001}), settings};
        if (plan.plain()) continue;
        Data data = awkward_steps(3, 3, plan.elements());
        for (unsigned rank = 0; rank < 3; ++rank) poison(data[1][rank], rank);
        expect_parity(plan, data, {.in = 1.0f, .out = 0.5f});
      }
    }
  }
}

TEST_P(HostParity, UnevenBoundaries_SameBytesAsReference) {
  PlanSettings settings = with_ranks(3);
  settings.operation = Operation::reduce_scatter;
  settings.boundaries = {0, 1001, 1002, 20000};
  const Plan plan{{parse_codec(GetParam())}, contiguous_spans({900, 15000, 4100}), settings};
  if (plan.plain()) return;
  expect_parity(plan, awkward_steps(2, 3, plan.elements()));
}

// Large enough for streamed stores, where they pay, and for several work items a thread.
TEST_P(HostParity, MillionElements_SameBytesAsReference) {
  PlanSettings settings = with_ranks(2);
  settings.commit = Commit::double_buffered;
  const Plan plan{{parse_codec(GetParam())}, contiguous_spans({1'000'001}), settings};
  if (plan.plain()) return;
  const bool pays = simd::streaming_pays();
  for (const bool streamed : {false, true}) {
    SCOPED_TRACE(fmt::format("streamed={}", streamed));
    simd::force_streaming(streamed);
    expect_parity(plan, awkward_steps(2, 2, plan.elements()));
  }
  simd::force_streaming(pays);
}

INSTANTIATE_TEST_SUITE_P(Codecs, HostParity,
                         testing::Values("none", "bf16", "bf16+ef", "fp16", "fp16+noef", "int8",
                                         "int8+noef", "int4", "int4+noef", "sign", "sign+noef",
                                         "topk:0.01", "topk:0.05/0.1", "topk:0.3+noef", "sign:rms"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace thinwire::compress
