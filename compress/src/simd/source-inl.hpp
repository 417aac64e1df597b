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

/// The mean of N payloads: the sum from +0 in their order, times fl(1 / N). Streamed stores of a
/// block leave the arithmetic units idle, so the next block is averaged beside them. A BlockCodec
/// may have a quicker way: average(payloads, g, groups, share, to) writes some groups of the first
/// block, or returns false.
template <typename BlockCodec>
class MeanOfPayloads {
 public:
  using Element = float;

  /// Of `blocks` full blocks and perhaps a short one.
  MeanOfPayloads(const Payloads& payloads, std::size_t blocks)
      : payloads_{payloads}, blocks_{blocks}, share_{1.0f / static_cast<float>(payloads.count)} {}
  MeanOfPayloads(const MeanOfPayloads&) = delete;  // it is large
  MeanOfPayloads& operator=(const MeanOfPayloads&) = delete;

  HWY_INLINE void next() {
    payloads_ = next_block();
    --blocks_;
    averaged_ = averaged_ahead_;
    averaged_ahead_ = 0;
  }
  HWY_INLINE void load(std::size_t g, FloatVec* to) {
    if (g >= averaged_) {
      average(payloads_, g);
      averaged_ = g + batch;
    }
    for (std::size_t v = 0; v < group_vectors; ++v) {
      to[v] = hn::Load(Floats{}, mean_ + g * group + v * lanes);
    }
  }
  void load_rest(std::size_t count, float* to) const {
    for (int i = 0; i < payloads_.count; ++i) {
      alignas(64) float values[BlockCodec::block];
      payload(payloads_, i).load_rest(count, values);
      for (std::size_t e = 0; e < count; ++e) to[e] += values[e];
    }
    for (std::size_t e = 0; e < count; ++e) to[e] *= share_;
  }
  HWY_INLINE void beside_load(std::size_t) const {}
  HWY_INLINE void beside_store(std::size_t g) {
    if (g % batch != 0 || blocks_ < 2) return;
    average(next_block(), g);
    averaged_ahead_ = g + batch;
  }

 private:
  static constexpr std::size_t groups = BlockCodec::block / group;
  static constexpr std::size_t batch = groups < 4 ? groups : 4;

  static HWY_INLINE OnePayload<BlockCodec> payload(const Payloads& payloads, int i) {
    const std::size_t at = static_cast<std::size_t>(i) * payloads.stride;
    return {payloads.scales + at, payloads.values + at};
  }

  HWY_INLINE Payloads next_block() const {
    Payloads next = payloads_;
    next.scales += BlockCodec::scale_bytes;
    next.values += BlockCodec::value_bytes(BlockCodec::block);
    return next;
  }

  /// Groups [first, first + batch) of the first block of `payloads`, to mean_.
  HWY_INLINE void average(const Payloads& payloads, std::size_t first) {
    float* to = mean_ + first * group;
    if constexpr (requires { BlockCodec::average(payloads, first, batch, share_, to); }) {
      if (BlockCodec::average(payloads, first, batch, share_, to)) return;
    }
    const FloatVec share = hn::Set(Floats{}, share_);
    for (std::size_t g = first; g < first + batch; ++g, to += group) {
      FloatVec sum[group_vectors];
      for (FloatVec& lane : sum) lane = hn::Zero(Floats{});
      for (int i = 0; i < payloads.count; ++i) {
        FloatVec values[group_vectors];
        payload(payloads, i).load(g, values);
        for (std::size_t v = 0; v < group_vectors; ++v) sum[v] = hn::Add(sum[v], values[v]);
      }
      for (std::size_t v = 0; v < group_vectors; ++v) {
        hn::Store(hn::Mul(sum[v], share), Floats{}, to + v * lanes);
      }
    }
  }

  Payloads payloads_;
  std::size_t blocks_;
  float share_;
  std::size_t averaged_ = 0;        // groups of this block that stand in mean_
  std::size_t averaged_ahead_ = 0;  // and of the next
  alignas(64) float mean_[BlockCodec::block];
};

}  // namespace thinwire::compress::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
