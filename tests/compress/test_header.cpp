#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plans.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"
#include "two_phase.hpp"

namespace thinwire::compress {
namespace {

using test::contiguous_spans;
using test::simple_plan;
using test::TwoPhase;
using test::with_ranks;
using testing::HasSubstr;

std::vector<std::byte> bytes_of(const std::vector<std::uint32_t>& words) {
  std::vector<std::byte> bytes(4 * words.size());
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

// splitmix64's published first outputs for the seed 0 are mix64 of multiples of its step.
TEST(Mix64, KnownOutputs_OfSplitmix64_Agree) {
  EXPECT_EQ(mix64(0x9E3779B97F4A7C15ull), 0xE220A8397B1DCDAFull);
  EXPECT_EQ(mix64(2 * 0x9E3779B97F4A7C15ull), 0x6E789E6AA1B965F4ull);
  EXPECT_EQ(mix64(0), 0u);
}

TEST(Digest, Words_AreMixedWithTheirIndex) {
  EXPECT_EQ(digest(bytes_of({7, 9}), 0), mix64(7) + mix64(9 | 1ull << 32));
  EXPECT_EQ(digest({}, 0), 0u);
}

TEST(Digest, Parts_AddUpToTheWhole) {
  const auto bytes = bytes_of({1, 2, 3, 4, 5, 6, 7});
  const std::span<const std::byte> whole{bytes};
  EXPECT_EQ(digest(whole, 0), digest(whole.subspan(12), 3) + digest(whole.first(12), 0));
}

TEST(Digest, SwappedWords_Differ) {
  EXPECT_NE(digest(bytes_of({1, 2}), 0), digest(bytes_of({2, 1}), 0));
}

TEST(Header, MakeHeader_FieldByField_IsAsDrawn) {
  PlanSettings settings = with_ranks(2);
  settings.dtype = DType::bf16;
  settings.operation = Operation::reduce_scatter;
  const Plan plan{{parse_codec("int4")}, contiguous_spans({1000}), settings};
  const SlotHeader header =
      make_header(plan, 1, 0, Phase::reduce, 0x1122334455667788ull, flag_zeroed, 99);
  std::vector<std::uint8_t> bytes(64);
  std::memcpy(bytes.data(), &header, 64);
  EXPECT_EQ((std::string{bytes.begin(), bytes.begin() + 4}), "TWIR");
  EXPECT_THAT(std::vector(bytes.begin() + 4, bytes.begin() + 24),
              testing::ElementsAre(1, 0, 1, 4, 2, 0, 0, 0, 2, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44,
                                   0x33, 0x22, 0x11));
  EXPECT_EQ(header.plan_id, plan.id());
  EXPECT_EQ(header.elements, 1000u - 512u);  // 8 blocks of 128: 4 and 4
  EXPECT_EQ(header.block, 128u);
  EXPECT_EQ(header.payload_length, 16u + 256u);  // 4 scales; (3 x 128 + 104) / 2 = 244 -> 256
  EXPECT_EQ(header.checksum, 99u);
}

/// Changes the slot that owner 1 sent and lets rank 0 decode.
class Corruption : public testing::Test {
 protected:
  Corruption() : plan_{simple_plan("sign", 3000, 2)}, world_{plan_} {
    world_.allreduce(test::awkward_gradients_of_ranks(2, 3000, 4), out_);
    slot_ = world_.reduced(0).last(plan_.slot_bytes(0, Phase::gather));
  }

  /// "" if the result is what it was.
  std::string error_of_decode() {
    std::vector<float> out(3000);
    try {
      world_.decode(0, view_of(out));
    } catch (const FormatError& error) {
      return error.what();
    }
    EXPECT_EQ(test::bits(out), test::bits(out_));  // harmless, then
    return "";
  }

  template <typename T>
  std::string error_with(std::size_t byte, T value) {
    std::vector<std::byte> copy{slot_.begin(), slot_.end()};
    std::memcpy(slot_.data() + byte, &value, sizeof value);
    const std::string error = error_of_decode();
    std::copy(copy.begin(), copy.end(), slot_.begin());
    return error;
  }

  Plan plan_;
  TwoPhase world_;
  std::vector<float> out_;
  std::span<std::byte> slot_;
};

// Only a known flag may flip unseen (it changes the verdict, no value), and what stands behind the
// payload.
TEST_F(Corruption, EveryByteFlipped_IsRefusedOrHarmless) {
  const std::size_t end = header_bytes + plan_.slot(1, 0).length_out;
  for (std::size_t byte = 0; byte < slot_.size(); ++byte) {
    for (const int bit : {0, 1, 4, 7}) {
      const auto flipped = std::to_integer<std::uint8_t>(slot_[byte]) ^ (1u << bit);
      const std::string error = error_with(byte, static_cast<std::uint8_t>(flipped));
      const bool known_flag = byte == offsetof(SlotHeader, flags) && bit < 2;
      ASSERT_EQ(error.empty(), known_flag || byte >= end) << byte << " bit " << bit;
      if (!error.empty()) {
        ASSERT_THAT(error, HasSubstr("rank 1"));
      }
    }
  }
}

TEST_F(Corruption, WrongFields_AreNamedWithBothValues) {
  EXPECT_THAT(error_with(offsetof(SlotHeader, version), std::uint16_t{2}),
              testing::AllOf(HasSubstr("wire version is 2"), HasSubstr("expected 1")));
  EXPECT_THAT(error_with(offsetof(SlotHeader, plan_id), std::uint64_t{5}),
              HasSubstr("plan id is 5"));
  EXPECT_THAT(error_with(offsetof(SlotHeader, sequence), std::uint64_t{77}),
              HasSubstr("sequence is 77"));
  EXPECT_THAT(error_with(offsetof(SlotHeader, elements), std::uint64_t{1} << 60),
              HasSubstr("elements is"));
  EXPECT_THAT(error_with(offsetof(SlotHeader, payload_length), ~std::uint64_t{0}),
              HasSubstr("payload length is"));
  EXPECT_THAT(error_with(offsetof(SlotHeader, codec), std::uint8_t{6}), HasSubstr("codec is 6"));
}

TEST_F(Corruption, TruncatedSlot_IsRefused) {
  const auto check = [&](std::size_t bytes) {
    return check_slot(plan_, 1, 0, Phase::gather, 1, 1, slot_.first(bytes));
  };
  const std::size_t needed = header_bytes + plan_.slot(1, 0).length_out;
  EXPECT_EQ(check(needed), 0u);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{63}, header_bytes, needed - 1}) {
    EXPECT_THROW(check(bytes), FormatError) << bytes;
  }
}

TEST_F(Corruption, ReduceEncode_BadSlotOfAPeer_WritesNothing) {
  const auto inputs = world_.exchange(0, 0);
  std::vector<std::byte> slots{inputs.begin(), inputs.end()};
  slots[slots.size() / 2 + header_bytes] ^= std::byte{1};  // payload of rank 1
  world_.commit();
  const std::vector<std::byte> before(plan_.slot_bytes(0, Phase::gather), std::byte{0xAA});
  std::vector<std::byte> out = before;
  try {
    world_.coder(0).reduce_encode(0, slots, world_.state(0), {.sequence = 1}, out);
    FAIL() << "accepted";
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("rank 1"), HasSubstr("checksum")));
  }
  EXPECT_EQ(out, before);
  EXPECT_FALSE(world_.state(0).in_step());
}

TEST(CoderArguments, Wrong_AreRefusedByName) {
  const Plan plan = simple_plan("sign", 100, 2);
  TwoPhase world{plan};
  std::vector<float> gradients(100);
  const auto message = [](auto body) -> std::string {
    try {
      body();
      return "accepted";
    } catch (const InvalidArgument& error) {
      return error.what();
    }
  };
  EXPECT_THAT(message([&] { world.encode(0, const_view_of(std::span{gradients}.first(99))); }),
              HasSubstr("99 elements"));
  EXPECT_THAT(message([&] {
                world.encode(0, {gradients.data(), 200, DType::bf16});
              }),
              HasSubstr("bf16"));
  EXPECT_THAT(message([&] { world.encode(0, {nullptr, 100, DType::f32}); }), HasSubstr("encode"));
  std::vector<std::byte> few(10);
  EXPECT_THAT(
      message([&] { world.coder(0).encode(0, const_view_of(gradients), world.state(0), {}, few); }),
      HasSubstr("10 bytes"));
  EXPECT_THAT(message([&] { world.coder(0).decode(1, few, {}, view_of(gradients)); }),
              HasSubstr("chunk 1 of 1"));
  EXPECT_THAT(message([&] {
                world.coder(0).reduce(0, world.exchange(0, 0), 0, {}, view_of(gradients), 50);
              }),
              HasSubstr("reduce: source elements"));
  const Plan plain = simple_plan("none", 100, 2);
  TwoPhase nothing{plain};
  EXPECT_THAT(message([&] { nothing.encode(0, const_view_of(gradients)); }), HasSubstr("none"));
  State other{plain, 0, std::make_shared<HostMemory>()};
  EXPECT_THAT(message([&] {
                world.coder(0).encode(0, const_view_of(gradients), other, {}, world.sent(0, 0));
              }),
              HasSubstr("another plan"));
}

}  // namespace
}  // namespace thinwire::compress
