#include "bench_codec_floor.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench_codec_floor.cpp"
#include <hwy/foreach_target.h>
// foreach_target.h comes first.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>

HWY_BEFORE_NAMESPACE();
namespace thinwire::bench::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// The same 64 elements ahead for both arrays, `kAhead` floats on; 0: none.
template <std::size_t kAhead>
void pass(const float* g, float* e, std::uint8_t* bits, std::size_t n, float sign) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr std::size_t lanes = hn::MaxLanes(hn::ScalableTag<float>{});
  const auto factor = hn::Set(d, sign);
  for (std::size_t i = 0; i < n; i += 64) {
    if constexpr (kAhead > 0) {
      for (std::size_t line = 0; line < 64; line += 16) {
        hwy::Prefetch(g + i + kAhead + line);
        hwy::Prefetch(e + i + kAhead + line);
      }
    }
    for (std::size_t v = 0; v < 64; v += lanes) {
      const auto sum = hn::Add(hn::Load(d, e + i + v), hn::Mul(hn::Load(d, g + i + v), factor));
      hn::Store(sum, d, e + i + v);
      if constexpr (lanes >= 8) {
        hn::StoreMaskBits(di, hn::Lt(hn::BitCast(di, sum), hn::Zero(di)), bits + (i + v) / 8);
      } else {
        bits[(i + v) / 8] = 0;
      }
    }
  }
}

void pass_of(int variant, const float* g, float* e, std::uint8_t* bits, std::size_t n, float sign) {
  switch (variant) {
    case 0:
      return pass<0>(g, e, bits, n, sign);
    case 1:
      return pass<256>(g, e, bits, n, sign);
    case 2:
      return pass<640>(g, e, bits, n, sign);
    default:
      return pass<1280>(g, e, bits, n, sign);
  }
}

void fill_of(bool streamed, float* to, std::size_t n) {
  constexpr std::size_t ahead = 640;
  const hn::ScalableTag<float> d;
  constexpr std::size_t lanes = hn::MaxLanes(hn::ScalableTag<float>{});
  const auto value = hn::Set(d, 1e-3f);
  for (std::size_t i = 0; i < n; i += 64) {
    for (std::size_t line = 0; !streamed && line < 64; line += 16) {
      hwy::Prefetch(to + i + ahead + line);
    }
    for (std::size_t v = 0; v < 64; v += lanes) {
      if (streamed) {
        hn::Stream(value, d, to + i + v);
      } else {
        hn::Store(value, d, to + i + v);
      }
    }
  }
  hwy::FlushStream();
}

}  // namespace
}  // namespace thinwire::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thinwire::bench {

HWY_EXPORT(pass_of);
HWY_EXPORT(fill_of);

namespace {

/// Calls body(first, elements) for all of [0, n) on the threads of `pool`. One thread takes one
/// long stretch, as a plain loop does.
template <typename Body>
void for_each_stretch(WorkerPool& pool, std::size_t n, const Body& body) {
  const std::size_t stretch = pool.threads() == 1 ? std::max<std::size_t>(n, 1) : 1 << 20;
  pool.parallel_for(static_cast<std::int64_t>((n + stretch - 1) / stretch), [&](std::int64_t i) {
    const std::size_t from = static_cast<std::size_t>(i) * stretch;
    body(from, std::min(stretch, n - from));
  });
}

}  // namespace

void floor_pass(int variant, WorkerPool& pool, std::span<const float> g, std::span<float> e,
                std::span<std::byte> bits, bool subtract) {
  for_each_stretch(pool, g.size(), [&](std::size_t from, std::size_t count) {
    HWY_DYNAMIC_DISPATCH(pass_of)
    (variant, g.data() + from, e.data() + from,
     reinterpret_cast<std::uint8_t*>(bits.data()) + from / 8, count, subtract ? -1.0f : 1.0f);
  });
}

void fill_pass(bool streamed, WorkerPool& pool, std::span<float> to) {
  for_each_stretch(pool, to.size(), [&](std::size_t from, std::size_t count) {
    HWY_DYNAMIC_DISPATCH(fill_of)(streamed, to.data() + from, count);
  });
}

}  // namespace thinwire::bench
#endif
