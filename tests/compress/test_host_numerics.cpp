#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <bit>
#include <random>

#include "host_parity.hpp"
#include "simd/kernels.hpp"
#include "thinwire/compress/header.hpp"

namespace thinwire::compress {
namespace {

using test::ForcedTarget;

class HostNumerics : public testing::TestWithParam<std::string> {
 protected:
  ForcedTarget forced_{GetParam()};
};

std::uint64_t plain_digest(std::span<const std::byte> bytes, std::uint64_t first_word) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes.size() / 4; ++i) {
    std::uint32_t word;
    std::memcpy(&word, bytes.data() + 4 * i, sizeof word);
    sum += mix64(word | (first_word + i) << 32);
  }
  return sum;
}

TEST_P(HostNumerics, Digest_AnyLengthAndStart_EqualsTheDefinition) {
  std::mt19937 random{1};
  std::vector<std::uint32_t> words(300);
  for (auto& word : words) word = random();
  const auto bytes = std::as_bytes(std::span{words});
  for (std::size_t count = 0; count < 130; ++count) {
    for (const std::uint64_t first : {0ull, 1ull, 0xFFFFFFF0ull, 0x1234567890ull}) {
      const auto part = bytes.subspan(4 * (count % 7), 4 * count);
      ASSERT_EQ(digest(part, first), plain_digest(part, first)) << count << " words from " << first;
    }
  }
}

/// Every bf16 and every fp16 with its neighbours in fp32 and the ties between, both signs, and
/// random bits.
std::vector<float> numbers_near_roundings() {
  std::vector<float> numbers;
  const auto around = [&](std::uint32_t bits) {
    for (const std::uint32_t near : {bits - 1, bits, bits + 1}) {
      numbers.push_back(std::bit_cast<float>(near));
    }
  };
  for (std::uint32_t high = 0; high < 65536; ++high) {
    around(high << 16);
    around(high << 16 | 0x8000u);
    const auto half =
        std::bit_cast<std::uint32_t>(from_fp16_bits(static_cast<std::uint16_t>(high)));
    const auto next =
        std::bit_cast<std::uint32_t>(from_fp16_bits(static_cast<std::uint16_t>(high + 1)));
    around(half);
    // The tie to the next fp16; for denormals too, halfway in value is halfway in bits + 1 at most.
    around(half + (next - half) / 2);
    around(half | 0x1000u);
  }
  std::mt19937 random{2};
  for (int i = 0; i < 1'000'000; ++i) {
    numbers.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  }
  numbers.resize(numbers.size() / 64 * 64);
  return numbers;
}

TEST_P(HostNumerics, Narrowing_NearEveryRounding_EqualsCore) {
  const auto numbers = numbers_near_roundings();
  Buffer aligned{std::make_shared<HostMemory>(), numbers.size() * sizeof(float), "test"};
  std::memcpy(aligned.data(), numbers.data(), aligned.size());
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const bool streamed : {false, true}) {
      test::UnalignedTensor out{static_cast<std::int64_t>(numbers.size()), dtype};
      simd::write_scaled(aligned.as<float>(), static_cast<std::int64_t>(numbers.size()), 1.0f,
                         dtype, out.view().data, streamed);
      simd::stream_fence();
      visit_dtype(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const T* actual = static_cast<const T*>(out.view().data);
        for (std::size_t i = 0; i < numbers.size(); ++i) {
          const T expected = from_float<T>(numbers[i]);
          ASSERT_EQ(std::memcmp(&actual[i], &expected, sizeof(T)), 0)
              << std::hex << std::bit_cast<std::uint32_t>(numbers[i]) << " to " << to_string(dtype);
        }
      });
    }
  }
}

TEST_P(HostNumerics, Widening_EveryHalf_EqualsCore) {
  std::vector<std::uint16_t> codes(65536);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(i);
  std::vector<std::byte> values(4 * codes.size());
  const auto none = simd::block_kernels(parse_codec("none"));
  for (const DType dtype : {DType::f16, DType::bf16}) {
    none.encode({.source = codes.data(),
                 .dtype = dtype,
                 .elements = static_cast<std::int64_t>(codes.size()),
                 .values = values.data()});
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const float expected =
          dtype == DType::f16 ? from_fp16_bits(codes[i]) : from_bf16_bits(codes[i]);
      // A block with NaN or Inf travels as NaN; their own conversion shows in HostParity.
      const std::size_t block = i / 1024 * 1024;
      const bool finite = (block & 0x7C00u) != 0x7C00u;
      float actual;
      std::memcpy(&actual, values.data() + 4 * i, sizeof actual);
      if (finite) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(actual), std::bit_cast<std::uint32_t>(expected))
            << i;
      }
    }
  }
}

/// Sets flush-to-zero and denormals-are-zero and another rounding for a scope, as a caller may.
class HostileEnvironment {
 public:
  HostileEnvironment() { _mm_setcsr(saved_ | 0x8040u | 0x2000u); }
  ~HostileEnvironment() { _mm_setcsr(saved_); }
  bool intact() const { return (_mm_getcsr() & ~0x3Fu) == ((saved_ | 0xA040u) & ~0x3Fu); }

 private:
  unsigned saved_ = _mm_getcsr();
};

TEST_P(HostNumerics, CallersFlushToZeroAndRounding_ChangeNothingAndAreKept) {
  const std::int64_t n = 300'000;
  for (const char* codec : {"bf16+ef", "fp16", "int8", "int4", "sign", "sign:rms"}) {
    const Plan plan = test::simple_plan(codec, n, 2);
    std::vector<std::vector<test::UnalignedTensor>> gradients(1);
    for (unsigned rank = 0; rank < 2; ++rank) {
      auto values = test::awkward_gradients(n, rank);
      for (float& value : values) value *= 0x1p-110f;  // residuals and scales become denormal
      gradients[0].emplace_back(values, DType::f32);
    }
    const auto expected = test::trace_of(plan, gradients, {}, make_reference_coder);
    const HostileEnvironment hostile;
    // Its threads inherit the caller's environment.
    const auto pool = std::make_shared<WorkerPool>(2);
    const auto actual = test::trace_of(plan, gradients, {},
                                       [&](const Plan& p) { return make_host_coder(p, pool); });
    EXPECT_TRUE(hostile.intact()) << codec;
    EXPECT_TRUE(actual == expected) << codec;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, HostNumerics, testing::ValuesIn(simd_targets()),
                         [](const auto& test) { return test.param; });

TEST(SimdTargets, UnknownName_ThrowsNamingThoseThereAre) {
  if (simd_targets().size() > 1) {  // else it was built with THINWIRE_NATIVE_SIMD
    EXPECT_EQ(simd_targets().back(), "scalar");
  }
  try {
    force_simd_target("altivec");
    FAIL() << "no exception";
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("altivec"));
    EXPECT_THAT(error.what(), testing::HasSubstr(simd_targets().back()));
  }
}

}  // namespace
}  // namespace thinwire::compress
