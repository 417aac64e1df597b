#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "reference/block_codec.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/tensor_view.hpp"

/// The verbs for one run of a slot. The reference coder goes through a slot's runs and adds
/// headers.
namespace thinwire::compress::reference {

/// Where the residuals of one side of error feedback are read and written.
struct ResidualMemory {
  const float* committed;
  float* next;
};

/// What the N ranks sent for one run.
struct RunInputs {
  std::span<const std::byte> slots;
  std::size_t slot_bytes;
  std::size_t offset;  ///< of the run in each slot
  int ranks;

  std::span<const std::byte> from(int rank) const {
    const std::size_t at = static_cast<std::size_t>(rank) * slot_bytes;
    return slots.subspan(at, slot_bytes).subspan(offset);
  }
};

class RunCoder {
 public:
  virtual ~RunCoder() = default;

  /// Encodes a worker's part; `out` starts at the run and is zero before. Returns SlotFlag bits.
  virtual std::uint32_t encode(const Run& run, const ConstTensorView& gradients, float inv_scale,
                               const ResidualMemory& worker, std::span<std::byte> out) = 0;

  /// Throws FormatError unless `bytes`, which start at the run, can be decoded safely.
  virtual void check(const Run& run, Phase phase, std::span<const std::byte> bytes,
                     int peer) const = 0;

  /// The owner's step, on checked inputs; `out` as for encode.
  virtual std::uint32_t reduce_encode(const Run& run, const RunInputs& inputs,
                                      const ResidualMemory& server, std::span<std::byte> out) = 0;

  /// The mean of the ranks, times out_scale; source element i goes to out[i - origin].
  virtual void reduce(const Run& run, const RunInputs& inputs, float out_scale,
                      const TensorView& out, std::int64_t origin) = 0;

  /// Decodes checked bytes of phase gather, times out_scale.
  virtual void decode(const Run& run, std::span<const std::byte> bytes, float out_scale,
                      const TensorView& out) = 0;
};

std::unique_ptr<RunCoder> make_block_run_coder(const CodecSpec& spec, NonFinite policy);

/// `most_elements`: of its largest run.
std::unique_ptr<RunCoder> make_topk_run_coder(NonFinite policy, std::int64_t most_elements);

/// Element i of a tensor, widened.
inline float read(const ConstTensorView& tensor, std::int64_t i) {
  return visit_dtype(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto* bytes = static_cast<const std::byte*>(tensor.data);
    return to_float(load<T>(bytes + static_cast<std::size_t>(i) * sizeof(T)));
  });
}

/// Element i of a tensor, rounded once.
inline void write(const TensorView& tensor, std::int64_t i, float value) {
  visit_dtype(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto* bytes = static_cast<std::byte*>(tensor.data);
    store(bytes + static_cast<std::size_t>(i) * sizeof(T), from_float<T>(value));
  });
}

}  // namespace thinwire::compress::reference
