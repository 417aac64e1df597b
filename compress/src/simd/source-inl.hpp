// Where a block codec takes its numbers from: gradients or payloads.

#if defined(THINWIRE_COMPRESS_SIMD_SOURCE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef THINWIRE_COMPRESS_SIMD_SOURCE_INL
#undef THINWIRE_COMPRESS_SIMD_SOURCE_INL
#else
#define THINWIRE_COMPRESS_SIMD_SOURCE_INL
#endif

#include <cstring>

#include "simd/block-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace thinwire::compress::simd::HWY_NAMESPACE {

/// Where the numbers of a block come from, a group of 64 at a time: Gradients, OnePayload or
/// MeanOfPayloads. They have
///   Element; after(blocks): the same from a later block on;
///   load(g, to): group g of the first block, which is full;
///   prefetch(g, ahead): fetches what lies `ahead` elements after it, where that pays; and
///   load_rest(count, to): the `count` elements of a short block, to memory that is zero.
template <typename BlockCodec, typename T>
class Gradients {
 public:
  using Element = T;

  explicit Gradients(const T* first) : first_{first} {}

  HWY_INLINE Gradients after(std::size_t blocks) const {
    return Gradients{first_ + blocks * BlockCodec::block};
  }
  HWY_INLINE void load(std::size_t g, FloatVec* to) const {
    const T* from = first_ + g * group;
    for (std::size_t v = 0; v < group_vectors; ++v) to[v] = load_wide(from + v * lanes);
  }
  HWY_INLINE void prefetch(std::size_t g, std::size_t ahead) const {
    prefetch_group(first_ + g * group, ahead);
  }
  void load_rest(std::size_t count, T* to) const { std::memcpy(to, first_, count * sizeof(T)); }

 private:
  const T* first_;
};

/// What one payload holds.
template <typename BlockCodec>
class OnePayload {
 public:
  using Element = float;

  explicit OnePayload(const Payloads& payloads)
      : scales_{payloads.scales}, values_{payloads.values} {}
  OnePayload(const std::byte* scales, const std::byte* values) : scales_{scales}, values_{values} {}

  HWY_INLINE OnePayload after(std::size_t blocks) const {
    return {scales_ + blocks * BlockCodec::scale_bytes,
            values_ + blocks * BlockCodec::value_bytes(BlockCodec::block)};
  }
  HWY_INLINE void load(std::size_t g, FloatVec* to) const {
    BlockCodec::decode_group(scales_, values_, g, to);
  }
  HWY_INLINE void prefetch(std::size_t, std::size_t) const {}
  void load_rest(std::size_t count, float* to) const {
    alignas(64) std::byte padded[BlockCodec::value_bytes(BlockCodec::block)]{};
    std::memcpy(padded, values_, BlockCodec::value_bytes(count));
    const OnePayload whole{scales_, padded};
    alignas(64) float values[group];
    for (std::size_t first = 0; first < count; first += group) {
      FloatVec decoded[group_vectors];
      whole.load(first / group, decoded);
      for (std::size_t v = 0; v < group_vectors; ++v) {
        hn::Store(decoded[v], Floats{}, values + v * lanes);
      }
      const std::size_t left = count - first;
      std::memcpy(to + first, values, (left < group ? left : group) * sizeof(float));
    }
  }

 private:
  const std::byte* scales_;
  const std::byte* values_;
};

/// The mean of N payloads: the sum from +0 in their order, times fl(1 / N).
template <typename BlockCodec>
class MeanOfPayloads {
 public:
  using Element = float;

  explicit MeanOfPayloads(const Payloads& payloads)
      : payloads_{payloads}, share_{1.0f / static_cast<float>(payloads.count)} {}

  HWY_INLINE MeanOfPayloads after(std::size_t blocks) const {
    MeanOfPayloads later = *this;
    later.payloads_.scales += blocks * BlockCodec::scale_bytes;
    later.payloads_.values += blocks * BlockCodec::value_bytes(BlockCodec::block);
    return later;
  }
  HWY_INLINE void load(std::size_t g, FloatVec* to) const {
    for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Zero(Floats{});
    for (int i = 0; i < payloads_.count; ++i) {
      FloatVec values[group_vectors];
      payload(i).load(g, values);
      for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Add(to[v], values[v]);
    }
    const FloatVec share = hn::Set(Floats{}, share_);
    for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Mul(to[v], share);
  }
  HWY_INLINE void prefetch(std::size_t, std::size_t) const {}
  void load_rest(std::size_t count, float* to) const {
    for (int i = 0; i < payloads_.count; ++i) {
      alignas(64) float values[BlockCodec::block];
      payload(i).load_rest(count, values);
      for (std::size_t e = 0; e < count; ++e) to[e] += values[e];
    }
    for (std::size_t e = 0; e < count; ++e) to[e] *= share_;
  }

 private:
  HWY_INLINE OnePayload<BlockCodec> payload(int i) const {
    const std::size_t at = static_cast<std::size_t>(i) * payloads_.stride;
    return {payloads_.scales + at, payloads_.values + at};
  }

  Payloads payloads_;
  float share_;
};

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
