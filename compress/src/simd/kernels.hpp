#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "thinwire/compress/codec_spec.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/dtype.hpp"

/// What the host coder asks of the SIMD code. One .cpp file a codec, compiled once for every target
/// (highway's foreach_target); the functions here pick the target of the moment. Every kernel wants
/// the FpEnvironment of its caller and never allocates, throws or synchronises.
namespace thinwire::compress::simd {

/// How a residual is kept.
enum class Memory : std::uint8_t {
  none,     ///< no feedback
  cached,   ///< plain stores
  streamed  ///< past the caches; the caller ends with stream_fence()
};

/// Consecutive blocks of one Piece to encode; only the last may be short.
struct EncodeStretch {
  const void* source = nullptr;  ///< `elements` numbers of `dtype`, any alignment
  DType dtype = DType::f32;
  float inv_scale = 1.0f;
  Memory memory = Memory::none;
  const float* residual = nullptr;  ///< `elements`, with feedback
  float* residual_next = nullptr;   ///< `elements`; `residual` itself when in place
  std::int64_t elements = 0;
  std::byte* scales = nullptr;  ///< of the first block
  std::byte* values = nullptr;  ///< of the first block
  NonFinite non_finite = NonFinite::propagate;
};

/// The same blocks on their way back.
struct DecodeStretch {
  const std::byte* scales = nullptr;
  const std::byte* values = nullptr;
  std::int64_t elements = 0;
  float* out = nullptr;  ///< aligned to 64 bytes; written up to the next multiple of 64 elements
  bool add = false;      ///< adds to what stands in `out`
};

/// The two directions of one block codec.
struct BlockKernels {
  std::uint32_t (*encode)(const EncodeStretch& stretch);  ///< returns SlotFlag bits
  void (*decode)(const DecodeStretch& stretch);
};

/// Chooses the target that THINWIRE_SIMD names, or else the best; does nothing from its second call
/// on. Throws InvalidArgument naming the targets there are.
void use_configured_target();

/// Of any codec but topk and mixed.
BlockKernels block_kernels(const CodecSpec& spec);

/// An element that may be among the largest.
struct TopkCandidate {
  std::uint32_t index;  ///< within the stretch
  float x;
};

/// A stretch of the pass over all elements of exact top-k.
struct TopkScan {
  const void* source = nullptr;  ///< as in EncodeStretch
  DType dtype = DType::f32;
  float inv_scale = 1.0f;
  Memory memory = Memory::none;
  const float* residual = nullptr;
  float* residual_next = nullptr;
  std::int64_t elements = 0;            ///< starts at a group
  bool every_group = false;             ///< groups whose source is all zero take part too
  std::uint32_t threshold = 0;          ///< candidates have magnitudes over it, as bits
  TopkCandidate* candidates = nullptr;  ///< room for `elements`
};

struct TopkScanned {
  std::uint32_t candidates;  ///< how many there were, by rising index
  bool overflow;             ///< one of them is NaN, Inf or no finite bf16
};

/// x = fl(fl(source * inv_scale) + residual). Writes x to residual_next, but keeps the residual of
/// groups that do not take part and where x is NaN or Inf; writes the candidates. The threshold is
/// below overflow_bits(Codec::topk).
TopkScanned scan_topk(const TopkScan& scan);

/// values[i] = fl(values[i] * scale) for values aligned to 64 bytes.
void scale_in_place(float* values, std::int64_t elements, float scale);

/// out[i] = fl(values[i] * scale), rounded once to `dtype`, every NaN canonical. `out` may have any
/// alignment; `streamed` writes past the caches.
void write_scaled(const float* values, std::int64_t elements, float scale, DType dtype, void* out,
                  bool streamed);

/// Orders streamed stores before what the calling thread publishes next.
void stream_fence();

}  // namespace thinwire::compress::simd
