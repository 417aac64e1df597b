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

/// The same consecutive blocks in N payloads.
struct Payloads {
  const std::byte* scales = nullptr;  ///< of the first block in the first payload
  const std::byte* values = nullptr;  ///< of the first block in the first payload
  std::size_t stride = 0;             ///< bytes from a payload to the next
  int count = 1;
};

/// Consecutive blocks of one Piece to encode; only the last may be short.
struct EncodeStretch {
  const void* source = nullptr;  ///< `elements` numbers of `dtype`, any alignment; null: payloads
  DType dtype = DType::f32;
  Payloads payloads = {};  ///< without a source: the mean of these, from +0, in order
  float inv_scale = 1.0f;
  Memory memory = Memory::none;
  const float* residual = nullptr;  ///< `elements`, with feedback
  float* residual_next = nullptr;   ///< `elements`; `residual` itself when in place
  std::int64_t elements = 0;
  std::byte* scales = nullptr;  ///< of the first block
  std::byte* values = nullptr;  ///< of the first block
  NonFinite non_finite = NonFinite::propagate;
};

/// Blocks on their way back: out = fl(value * scale), rounded once to `dtype`, every NaN canonical.
struct DecodeStretch {
  Payloads payloads = {};
  bool mean = false;  ///< the mean of all payloads, from +0, in order; else the first as it is
  std::int64_t elements = 0;
  float scale = 1.0f;
  DType dtype = DType::f32;
  void* out = nullptr;    ///< `elements`, any alignment
  bool streamed = false;  ///< past the caches; the caller ends with stream_fence()
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

/// Whether an array that is only written reaches the memory sooner past the caches than by plain
/// stores to lines that are fetched ahead. The bits are the same.
bool streaming_pays();

/// For tests: what streaming_pays() says from now on. Not thread-safe.
void force_streaming(bool pays);

/// Orders streamed stores before what the calling thread publishes next.
void stream_fence();

}  // namespace thinwire::compress::simd
