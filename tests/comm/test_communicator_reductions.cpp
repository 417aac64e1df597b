#include <algorithm>
#include <cmath>
#include <limits>

#include "ranks.hpp"
#include "thinwire/core/error.hpp"
#include "values.hpp"

namespace thinwire::comm::testing {
namespace {

constexpr ReduceOp all_ops[] = {ReduceOp::sum, ReduceOp::avg, ReduceOp::max};
constexpr DType all_dtypes[] = {DType::f32, DType::f16, DType::bf16};
constexpr std::int64_t sizes[] = {0, 1, 3, 1000};

float expected(ReduceOp op, int ranks, std::int64_t i) {
  float sum = 0;
  float largest = value_of(0, i);
  for (int r = 0; r < ranks; ++r) {
    sum += value_of(r, i);
    largest = std::max(largest, value_of(r, i));
  }
  if (op == ReduceOp::max) return largest;
  return op == ReduceOp::sum ? sum : sum * (1.0f / static_cast<float>(ranks));
}

float rounded(DType dtype, float value) {
  return visit_dtype(
      dtype, [&](auto tag) { return to_float(from_float<typename decltype(tag)::type>(value)); });
}

/// How many elements are not what the reduction of all ranks' inputs from `first` on must give.
std::int64_t wrong(const Values& result, DType dtype, ReduceOp op, int ranks,
                   std::int64_t first = 0) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < result.numel(); ++i) {
    count += result.get(i) != rounded(dtype, expected(op, ranks, first + i));
  }
  return count;
}

class Reductions : public RanksTest {};

TEST_P(Reductions, Allreduce_EveryDtypeOpAndSize_GivesExactResult) {
  on_all([](Communicator& comm) {
    for (const auto dtype : all_dtypes) {
      for (const auto op : all_ops) {
        for (const auto numel : sizes) {
          auto in = Values::of_rank(comm.rank(), dtype, numel);
          Values out{dtype, numel};
          comm.allreduce(in.view(), out.view(), op)->wait(patience);
          EXPECT_EQ(wrong(out, dtype, op, comm.size()), 0)
              << to_string(dtype) << " op " << static_cast<int>(op) << " n " << numel;
        }
      }
    }
  });
}

TEST_P(Reductions, Allreduce_InPlaceOfAMillionElements_GivesExactResult) {
  on_all([](Communicator& comm) {
    constexpr std::int64_t numel = 1'000'001;
    auto data = Values::of_rank(comm.rank(), DType::f32, numel);
    comm.allreduce(data.view(), data.view(), ReduceOp::sum)->wait(patience);
    EXPECT_EQ(wrong(data, DType::f32, ReduceOp::sum, comm.size()), 0);
  });
}

TEST_P(Reductions, Allreduce_InexactSums_AreTheSameBitsOnEveryRank) {
  on_all([](Communicator& comm) {
    for (const auto dtype : all_dtypes) {
      constexpr std::int64_t numel = 1003;
      Values data{dtype, numel};
      for (std::int64_t i = 0; i < numel; ++i) {
        data.set(i, std::sin(static_cast<float>(i * (comm.rank() + 1))));
      }
      comm.allreduce(data.view(), data.view(), ReduceOp::sum)->wait(patience);
      auto of_root = data;
      const ByteView root_bytes{static_cast<std::byte*>(of_root.view().data),
                                of_root.view().bytes()};
      comm.broadcast(root_bytes, 0)->wait(patience);
      EXPECT_TRUE(data == of_root) << to_string(dtype) << " differs on rank " << comm.rank();
    }
  });
}

TEST_P(Reductions, Allreduce_HalfOverflowAndNan_AreSeenOnEveryRank) {
  on_all([](Communicator& comm) {
    Values data{DType::f16, 2};
    data.set(0, 60000.0f);
    data.set(1, comm.rank() == comm.size() - 1 ? std::numeric_limits<float>::quiet_NaN() : 1.0f);
    comm.allreduce(data.view(), data.view(), ReduceOp::sum)->wait(patience);
    EXPECT_EQ(std::isinf(data.get(0)), comm.size() > 1);
    EXPECT_TRUE(std::isnan(data.get(1)));

    data.set(1, comm.rank() == 0 ? std::numeric_limits<float>::quiet_NaN() : 1.0f);
    comm.allreduce(data.view(), data.view(), ReduceOp::max)->wait(patience);
    EXPECT_TRUE(std::isnan(data.get(1)));
  });
}

TEST_P(Reductions, AllreduceMax_Words_AreTheLargestOfAllRanks) {
  on_all([](Communicator& comm) {
    const auto last = static_cast<std::uint64_t>(comm.size() - 1);
    const auto rank = static_cast<std::uint64_t>(comm.rank());
    std::vector<std::uint64_t> words{rank, ~rank, 7};
    comm.allreduce_max(words)->wait(patience);
    EXPECT_EQ(words, (std::vector<std::uint64_t>{last, ~std::uint64_t{0}, 7}));
    comm.allreduce_max({})->wait(patience);
  });
}

TEST_P(Reductions, ReduceScatter_EveryDtypeOpAndSize_GivesExactPart) {
  on_all([](Communicator& comm) {
    for (const auto dtype : all_dtypes) {
      for (const auto op : all_ops) {
        for (const auto part : sizes) {
          auto in = Values::of_rank(comm.rank(), dtype, part * comm.size());
          Values out{dtype, part};
          comm.reduce_scatter(in.view(), out.view(), op)->wait(patience);
          EXPECT_EQ(wrong(out, dtype, op, comm.size(), part * comm.rank()), 0)
              << to_string(dtype) << " op " << static_cast<int>(op) << " part " << part;
        }
      }
    }
  });
}

TEST_P(Reductions, BadArguments_AreRefusedAndLeaveTheCommunicatorUsable) {
  on_all([](Communicator& comm) {
    std::vector<float> data(8 * static_cast<std::size_t>(comm.size()));
    auto all = view_of(std::span<float>{data});
    auto shifted = all;
    shifted.data = data.data() + 1;
    shifted.numel = all.numel - 1;
    auto shorter = all;
    shorter.numel = all.numel - 1;
    auto halves = all;
    halves.dtype = DType::f16;
    auto on_device = all;
    on_device.device = Device::cuda;
    const TensorView null{nullptr, 3, DType::f32, Device::host};
    EXPECT_THROW(comm.allreduce(shorter, shifted, ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(comm.allreduce(all, shorter, ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(comm.allreduce(halves, all, ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(comm.allreduce(on_device, on_device, ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(comm.allreduce(null, null, ReduceOp::sum), InvalidArgument);
    EXPECT_THROW(comm.reduce_scatter(all, shorter, ReduceOp::sum), InvalidArgument);
    comm.allreduce(all, all, ReduceOp::sum)->wait(patience);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Reductions, ::testing::ValuesIn(rank_counts()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace thinwire::comm::testing
