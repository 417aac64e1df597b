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

/// Software prefetch pays most where else the memory would wait: a long block is fetched while the
/// one before is stored, far enough ahead that none of it is missing when its turn comes; short
/// blocks follow each other so fast that it can go beside the loads.
constexpr std::size_t long_block = 1024;
constexpr std::size_t prefetch_beside_loads = 640;
constexpr std::size_t prefetch_beside_stores = 1536;

/// Where the numbers of consecutive blocks come from, a group of 64 at a time: Gradients,
/// OnePayload or MeanOfPayloads. They have
///   Element; next(): on to the next block;
///   load(g, to): group g of the block, which is full;
///   load_rest(count, to): the `count` elements of a short block, to memory that is zero;
///   beside_load(g): called when group g is loaded; and
///   beside_store(g): called when group g is stored, in order, to work ahead for the next block.
template <typename BlockCodec, typename T>
class Gradients {
 public:
  using Element = T;

  explicit Gradients(const T* first) : first_{first} {}

  HWY_INLINE void next() { first_ += BlockCodec::block; }
  HWY_INLINE void load(std::size_t g, FloatVec* to) const {
    const T* from = first_ + g * group;
    for (std::size_t v = 0; v < group_vectors; ++v) to[v] = load_wide(from + v * lanes);
  }
  void load_rest(std::size_t count, T* to) const { std::memcpy(to, first_, count * sizeof(T)); }
  HWY_INLINE void beside_load(std::size_t g) const {
    if (BlockCodec::block < long_block) prefetch_group(first_ + g * group, prefetch_beside_loads);
  }
  HWY_INLINE void beside_store(std::size_t g) const {
    if (BlockCodec::block >= long_block) prefetch_group(first_ + g * group, prefetch_beside_stores);
  }

 private:
  const T* first_;
};

/// What one payload holds.
template <typename BlockCodec>
class OnePayload {
 public:
  using Element = float;

  OnePayload(const std::byte* scales, const std::byte* values) : scales_{scales}, values_{values} {}

  HWY_INLINE void next() {
    scales_ += BlockCodec::scale_bytes;
    values_ += BlockCodec::value_bytes(BlockCodec::block);
  }
  HWY_INLINE void load(std::size_t g, FloatVec* to) const {
    BlockCodec::decode_group(scales_, values_, g, to);
  }
  void load_rest(std::size_t count, float* to) const {
    alignas(64) std::byte padded[BlockCodec::value_bytes(BlockCodec::block)]{};
    std::memcpy(padded, values_, BlockCodec::value_bytes(count));
    const OnePayload whole{scales_, padded};
    for (std::size_t first = 0; first < count; first += group) {
      FloatVec decoded[group_vectors];
      whole.load(first / group, decoded);
      alignas(64) float values[group];
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

/// A codec's QuickSum adds the first `most` payloads at once, or all if they are fewer: start()
/// goes to a block of theirs and says whether it serves there, load(g, to) sums group g. This one
/// never serves.
struct NoQuickSum {
  static constexpr int most = 0;
  bool start(const Payloads&) { return false; }
  HWY_INLINE void load(std::size_t, FloatVec*) const {}
};

/// The mean of N payloads: the sum from +0 in their order, times fl(1 / N).
template <typename BlockCodec>
class MeanOfPayloads {
 public:
  using Element = float;

  explicit MeanOfPayloads(const Payloads& payloads)
      : payloads_{payloads}, share_{1.0f / static_cast<float>(payloads.count)} {}

  HWY_INLINE void next() {
    payloads_.scales += BlockCodec::scale_bytes;
    payloads_.values += BlockCodec::value_bytes(BlockCodec::block);
  }
  HWY_INLINE void load(std::size_t g, FloatVec* to) {
    if (g == 0) has_quick_sum_ = quick_sum_.start(payloads_);
    int added = 0;
    if (has_quick_sum_) [[likely]] {
      quick_sum_.load(g, to);
      added = BlockCodec::QuickSum::most;
    } else {
      for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Zero(Floats{});
    }
    for (int i = added; i < payloads_.count; ++i) {
      FloatVec values[group_vectors];
      payload(i).load(g, values);
      for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Add(to[v], values[v]);
    }
    const FloatVec share = hn::Set(Floats{}, share_);
    for (std::size_t v = 0; v < group_vectors; ++v) to[v] = hn::Mul(to[v], share);
  }
  void load_rest(std::size_t count, float* to) const {
    for (int i = 0; i < payloads_.count; ++i) {
      alignas(64) float values[BlockCodec::block];
      payload(i).load_rest(count, values);
      for (std::size_t e = 0; e < count; ++e) to[e] += values[e];
    }
    for (std::size_t e = 0; e < count; ++e) to[e] *= share_;
  }
  HWY_INLINE void beside_load(std::size_t) const {}
  HWY_INLINE void beside_store(std::size_t) const {}

 private:
  HWY_INLINE OnePayload<BlockCodec> payload(int i) const {
    const std::size_t at = static_cast<std::size_t>(i) * payloads_.stride;
    return {payloads_.scales + at, payloads_.values + at};
  }

  Payloads payloads_;
  float share_;
  typename BlockCodec::QuickSum quick_sum_;
  bool has_quick_sum_ = false;
};

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
