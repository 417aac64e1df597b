#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "bucket.hpp"
#include "gpu_ranks.hpp"

/// Slots with wrong bytes: whatever a peer sends, it is named, and nothing of it is committed.
namespace thinwire::compress::test {
namespace {

class CudaSlotsOf : public testing::TestWithParam<std::string> {};

TEST_P(CudaSlotsOf, AnyByteOfAPeersSlotChanged_NamesThePeerAndCommitsNothing) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks ranks{gpu, plan};
  set_noise(ranks, plan, 1);
  std::mt19937 random{5};
  const std::size_t slot_bytes = plan.slot_bytes(0, Phase::reduce);
  std::uint64_t sequence = 0;
  for (int i = 0; i < 60; ++i, ++sequence) {
    const int peer = i % plan.ranks();
    const int owner = i / 3 % plan.ranks();
    const std::size_t length = header_bytes + plan.slot(owner, 0).length;
    std::size_t at = i < 20 ? random() % header_bytes : random() % length;
    // Flags are what the checksum does not cover and the sender is free to set.
    if (at >= offsetof(SlotHeader, flags) && at < offsetof(SlotHeader, sequence)) at += 4;
    ranks.enqueue_encode(0);
    ranks.enqueue_encode(1);
    ranks.enqueue_encode(2);
    std::byte* byte = ranks.sent(peer) + static_cast<std::size_t>(owner) * slot_bytes + at;
    std::byte value =
        gpu.download(byte, 1).front() ^ std::byte{static_cast<unsigned char>(1u << random() % 8)};
    gpu.copy(byte, &value, 1);
    for (int rank = 0; rank < plan.ranks(); ++rank) ranks.enqueue_reduce_encode(rank);
    ranks.enqueue_decode();
    ranks.step().end(ranks.stream());
    gpu.stream.synchronize();
    const auto error = ranks.ring().poll();
    ASSERT_TRUE(error.has_value()) << "byte " << at;
    EXPECT_EQ(error->peer, peer) << describe(*error);
    EXPECT_EQ(error->sequence, sequence);
    EXPECT_TRUE(ranks.step().report(sequence)->failed);
    EXPECT_THAT(all_residuals(ranks, plan), testing::Each(0.0f));
    // Every rank sees NaN where the owner could not reduce.
    const auto out = floats(ranks.host_out());
    const Piece& piece = plan.slot(owner, 0).runs.front().pieces.front();
    EXPECT_TRUE(std::isnan(out[static_cast<std::size_t>(piece.source)]));
    while (ranks.ring().poll()) {
    }
  }
}

TEST_P(CudaSlotsOf, AnyByteOfAnOwnersSlotChanged_NamesTheOwnerAndMakesItsSpansNaN) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Plan plan = make_plan(GetParam(), Commit::double_buffered);
  GpuRanks ranks{gpu, plan};
  set_noise(ranks, plan, 1);
  std::mt19937 random{6};
  const std::size_t slot_bytes = plan.slot_bytes(0, Phase::gather);
  for (int i = 0; i < 30; ++i) {
    const int owner = i % plan.ranks();
    const std::size_t at = header_bytes + random() % plan.slot(owner, 0).length_out;
    for (int rank = 0; rank < plan.ranks(); ++rank) ranks.enqueue_encode(rank);
    for (int rank = 0; rank < plan.ranks(); ++rank) ranks.enqueue_reduce_encode(rank);
    std::byte* byte = ranks.reduced() + static_cast<std::size_t>(owner) * slot_bytes + at;
    std::byte value = ~gpu.download(byte, 1).front();
    gpu.copy(byte, &value, 1);
    ranks.enqueue_decode();
    ranks.step().end(ranks.stream());
    gpu.stream.synchronize();
    const auto error = ranks.ring().poll();
    ASSERT_TRUE(error.has_value()) << "byte " << at;
    EXPECT_EQ(error->peer, owner);
    const auto out = floats(ranks.host_out());
    for (const Piece& piece : plan.slot(owner, 0).runs.front().pieces) {
      for (std::int64_t k = 0; k < piece.elements; ++k) {
        ASSERT_TRUE(std::isnan(out[static_cast<std::size_t>(piece.source + k)]));
      }
    }
    const Piece& other = plan.slot((owner + 1) % 3, 0).runs.front().pieces.front();
    EXPECT_FALSE(std::isnan(out[static_cast<std::size_t>(other.source)]));
    EXPECT_THAT(all_residuals(ranks, plan), testing::Each(0.0f));
    while (ranks.ring().poll()) {
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, CudaSlotsOf,
                         testing::Values("sign", "int8", "int4", "bf16+ef", "fp16", "topk:0.01"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

}  // namespace
}  // namespace thinwire::compress::test
