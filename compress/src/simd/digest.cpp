// The checksum of a payload: four lanes or more of splitmix64's finaliser.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "simd/digest.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include <hwy/highway.h>

#include <cstring>

#include "thinwire/compress/header.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

std::uint64_t digest_scalar(const std::byte* bytes, std::size_t words, std::uint64_t first_word) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < words; ++i) {
    std::uint32_t word;
    std::memcpy(&word, bytes + 4 * i, sizeof word);
    sum += mix64(word | (first_word + i) << 32);
  }
  return sum;
}

#if HWY_TARGET == HWY_SCALAR
std::uint64_t digest_words(const std::byte* bytes, std::size_t words, std::uint64_t first_word) {
  return digest_scalar(bytes, words, first_word);
}
#else
using Longs = hn::ScalableTag<std::uint64_t>;
using Words = hn::Repartition<std::uint32_t, Longs>;
using LongVec = hn::Vec<Longs>;

/// v * kFactor mod 2^64.
template <std::uint64_t kFactor>
HWY_INLINE LongVec multiply(LongVec v) {
  const Longs d;
#if HWY_TARGET <= HWY_AVX3
  return hn::Mul(v, hn::Set(d, kFactor));
#else
  // Without a 64-bit product: low * low + ((high * low + low * high) << 32).
  const Words dw;
  const auto low = hn::BitCast(dw, hn::Set(d, kFactor & 0xFFFFFFFFu));
  const auto high = hn::BitCast(dw, hn::Set(d, kFactor >> 32));
  const auto v_low = hn::BitCast(dw, v);
  const auto v_high = hn::BitCast(dw, hn::ShiftRight<32>(v));
  const LongVec cross = hn::Add(hn::MulEven(v_low, high), hn::MulEven(v_high, low));
  return hn::Add(hn::MulEven(v_low, low), hn::ShiftLeft<32>(cross));
#endif
}

HWY_INLINE LongVec mix(LongVec z) {
  z = multiply<0xBF58476D1CE4E5B9ull>(hn::Xor(z, hn::ShiftRight<30>(z)));
  z = multiply<0x94D049BB133111EBull>(hn::Xor(z, hn::ShiftRight<27>(z)));
  return hn::Xor(z, hn::ShiftRight<31>(z));
}

std::uint64_t digest_words(const std::byte* bytes, std::size_t words, std::uint64_t first_word) {
  const Longs d;
  const Words dw;
  constexpr std::size_t step = hn::MaxLanes(Words{});
  const auto even = hn::Set(d, 0xFFFFFFFFull);
  // Upper halves hold the numbers of the words: those of the even words, then of the odd ones.
  LongVec index_even =
      hn::ShiftLeft<32>(hn::Add(hn::Set(d, first_word), hn::ShiftLeft<1>(hn::Iota(d, 0))));
  const auto one = hn::Set(d, std::uint64_t{1} << 32);
  const auto advance = hn::Set(d, std::uint64_t{step} << 32);
  LongVec sum_even = hn::Zero(d);
  LongVec sum_odd = hn::Zero(d);
  std::size_t i = 0;
  for (; i + step <= words; i += step) {
    const LongVec pair =
        hn::BitCast(d, hn::LoadU(dw, reinterpret_cast<const std::uint32_t*>(bytes + 4 * i)));
    const LongVec index_odd = hn::Add(index_even, one);
    sum_even = hn::Add(sum_even, mix(hn::Or(hn::And(pair, even), index_even)));
    sum_odd = hn::Add(sum_odd, mix(hn::Or(hn::ShiftRight<32>(pair), index_odd)));
    index_even = hn::Add(index_even, advance);
  }
  alignas(64) std::uint64_t sums[hn::MaxLanes(Longs{})];
  hn::Store(hn::Add(sum_even, sum_odd), d, sums);
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum + digest_scalar(bytes + 4 * i, words - i, first_word + i);
}
#endif

}  // namespace
}  // namespace thinwire::compress::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::compress {
HWY_EXPORT(digest_words);
std::uint64_t digest(std::span<const std::byte> bytes, std::uint64_t first_word) {
  return HWY_DYNAMIC_DISPATCH(digest_words)(bytes.data(), bytes.size() / 4, first_word);
}
}  // namespace thinwire::compress
#endif
