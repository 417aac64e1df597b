#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "bucket.hpp"
#include "parity.hpp"
#include "run_layout.hpp"

/// topk where its threshold misleads, and where a peer's entries do.
namespace thinwire::compress::test {
namespace {

struct Content {
  const char* name;
  std::function<float(std::int64_t, std::mt19937&)> value;  ///< by position and chance
};

float normal(std::mt19937& random) { return std::normal_distribution<float>{0.0f, 1e-3f}(random); }

std::vector<std::byte> bytes_of(const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Plan plan_of(const std::string& codec, std::int64_t n, int ranks) {
  std::vector<Span> spans;
  std::int64_t source = 0;
  for (const std::int64_t length : {std::int64_t{777}, n - 3777, std::int64_t{3000}}) {
    Span span;
    span.parameter = "p" + std::to_string(spans.size());
    span.source_offset = source;
    span.length = length;
    spans.push_back(span);
    source += length;
  }
  PlanSettings settings;
  settings.ranks = ranks;
  return Plan{{parse_codec(codec)}, spans, settings};
}

TEST(CudaTopk, ContentThatMisleadsTheSample_IsStillExact) {
  SKIP_WITHOUT_GPU();
  const std::vector<Content> contents{
      {"equal magnitudes", [](std::int64_t i, std::mt19937&) { return i % 3 == 0 ? 0.5f : -0.5f; }},
      {"two magnitudes",
       [](std::int64_t, std::mt19937& random) { return random() % 9 == 0 ? 2.0f : 1.0f; }},
      {"few numbers", [](std::int64_t i, std::mt19937&) { return i % 5000 == 7 ? 1.0f : 0.0f; }},
      {"all at the end",
       [](std::int64_t i, std::mt19937& random) { return i > 290000 ? normal(random) : 1e-9f; }},
      {"all in one place",
       [](std::int64_t i, std::mt19937& random) {
         return i / 2500 == 40 ? 1.0f + normal(random) : normal(random);
       }},
      {"zero", [](std::int64_t, std::mt19937&) { return 0.0f; }},
      {"a NaN",
       [](std::int64_t i, std::mt19937& random) {
         return i == 100000 ? std::numeric_limits<float>::quiet_NaN() : normal(random);
       }},
      {"normal", [](std::int64_t, std::mt19937& random) { return normal(random); }}};
  Gpu gpu;
  for (const char* codec : {"topk:0.01", "topk:0.001", "topk:0.3/0.01", "topk:0.01+noef"}) {
    for (const int ranks : {1, 3}) {
      const Plan plan = plan_of(codec, 300000, ranks);
      for (const Content& content : contents) {
        std::mt19937 random{3};
        Parity parity{gpu, plan};
        for (int step = 0; step < 2; ++step) {
          std::vector<std::vector<std::byte>> gradients;
          for (int rank = 0; rank < ranks; ++rank) {
            std::vector<float> values(300000);
            for (std::size_t i = 0; i < values.size(); ++i) {
              values[i] = content.value(static_cast<std::int64_t>(i), random);
            }
            gradients.push_back(bytes_of(values));
          }
          EXPECT_EQ(parity.step(gradients), "")
              << codec << ", " << ranks << " ranks, " << content.name;
        }
      }
    }
  }
}

/// Breaks entries of a slot and makes its checksum right again.
class BrokenSlot {
 public:
  BrokenSlot(Gpu& gpu, const Plan& plan, int shard, Phase phase, std::byte* device)
      : gpu_{gpu}, device_{device}, bytes_{gpu.download(device, plan.slot_bytes(0, phase))} {
    const Run& run = plan.slot(shard, 0).runs.front();
    const bool reduces = phase == Phase::reduce;
    length_ = reduces ? plan.slot(shard, 0).length : plan.slot(shard, 0).length_out;
    offset_ = reduces ? run.offset : run.offset_out;
    local_ = offset_ + TopkParts{run.elements, reduces ? run.entries : run.entries_out}.local;
  }

  void set_first(std::size_t block, std::uint32_t value) {
    std::memcpy(&bytes_[offset_ + 4 * block], &value, sizeof value);
  }
  void set_local(std::size_t entry, std::uint16_t value) {
    std::memcpy(&bytes_[local_ + 2 * entry], &value, sizeof value);
  }
  void put_back() {
    const std::uint64_t checksum = digest(std::span{bytes_}.subspan(header_bytes, length_), 0);
    std::memcpy(&bytes_[offsetof(SlotHeader, checksum)], &checksum, sizeof checksum);
    gpu_.copy(device_, bytes_.data(), bytes_.size());
  }

 private:
  Gpu& gpu_;
  std::byte* device_;
  std::vector<std::byte> bytes_;
  std::size_t length_;
  std::size_t offset_;
  std::size_t local_;
};

TEST(CudaTopk, BrokenEntriesUnderARightChecksum_AreRefusedOnBothWays) {
  SKIP_WITHOUT_GPU();
  const std::vector<std::pair<const char*, std::function<void(BrokenSlot&)>>> breaks{
      {"entries over the capacity", [](BrokenSlot& slot) { slot.set_first(3, 0x7FFFFFFFu); }},
      {"a flag at the end", [](BrokenSlot& slot) { slot.set_first(3, 0x80000000u); }},
      {"first entries fall", [](BrokenSlot& slot) { slot.set_first(1, 0x7000FFFFu); }},
      {"not from 0 on", [](BrokenSlot& slot) { slot.set_first(0, 1); }},
      {"a flag on a block with entries",
       [](BrokenSlot& slot) { slot.set_first(0, topk_non_finite); }},
      {"indices fall", [](BrokenSlot& slot) { slot.set_local(9, 0); }},
      {"behind the end", [](BrokenSlot& slot) {
         slot.set_first(2, 10);  // the last, short block has nearly all entries
       }}};
  Gpu gpu;
  const Plan plan = plan_of("topk:0.01", 300000, 2);  // 3 blocks of positions a shard
  std::uint64_t sequence = 0;
  GpuRanks ranks{gpu, plan};
  for (const Phase phase : {Phase::reduce, Phase::gather}) {
    for (const auto& [name, damage] : breaks) {
      set_noise(ranks, plan, 1);
      for (int rank = 0; rank < 2; ++rank) ranks.enqueue_encode(rank);
      if (phase == Phase::reduce) {
        BrokenSlot slot{gpu, plan, 0, phase, ranks.sent(1)};
        damage(slot);
        slot.put_back();
      }
      for (int rank = 0; rank < 2; ++rank) ranks.enqueue_reduce_encode(rank);
      if (phase == Phase::gather) {
        BrokenSlot slot{gpu, plan, 1, phase, ranks.reduced() + plan.slot_bytes(0, phase)};
        damage(slot);
        slot.put_back();
      }
      ranks.enqueue_decode();
      ranks.step().end(ranks.stream());
      gpu.stream.synchronize();
      const auto error = ranks.ring().poll();
      ASSERT_TRUE(error.has_value()) << name;
      EXPECT_EQ(error->peer, 1) << name;
      EXPECT_EQ(error->code, static_cast<std::uint32_t>(SlotError::topk_entries)) << name;
      EXPECT_TRUE(ranks.step().report(sequence)->failed) << name;
      const auto out = floats(ranks.host_out());
      const int shard = phase == Phase::reduce ? 0 : 1;
      for (const Piece& piece : plan.slot(shard, 0).runs.front().pieces) {
        EXPECT_TRUE(std::isnan(out[static_cast<std::size_t>(piece.source)])) << name;
      }
      while (ranks.ring().poll()) {
      }
      ++sequence;
    }
  }
}

}  // namespace
}  // namespace thinwire::compress::test
