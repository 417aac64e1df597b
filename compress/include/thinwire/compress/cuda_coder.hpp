#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "thinwire/compress/cuda_state.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/cuda/error_ring.hpp"
#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/stream.hpp"
#include "thinwire/core/tensor_view.hpp"

/// The verbs of Coder on a GPU, with the same bits. Declared always, defined only in builds with
/// CUDA.
namespace thinwire::compress {

/// What belongs to one call of a verb; the sequence number is the step's (CudaStep).
struct CudaCall {
  StreamView stream;
  const float* inv_scale = nullptr;  ///< device scalar, as in CallState
  const float* out_scale = nullptr;  ///< device scalar, as in CallState
};

/// What was wrong with a slot: the codes of the DeviceErrors that the verbs record.
enum class SlotError : std::uint32_t {
  magic,
  version,
  operation,
  codec,
  dtype,
  sequence,
  plan_id,
  elements,
  block,
  payload_length,
  unknown_flags,
  reserved,
  checksum,
  topk_entries
};

/// "payload from rank 2: checksum is 1 (0x1), expected 2 (0x2)".
std::string describe(const DeviceError& error);

/// The verbs of a plan on the current device. They only enqueue on the call's stream: nothing
/// blocks, nothing is allocated after construction, and all can be captured in a CUDA graph.
/// Tensors and slots are device memory; slots are 16-byte aligned.
///
/// What a peer sent is checked in full. A slot that is refused is recorded in the error ring with
/// its sender, its spans become NaN on this rank (reduce_encode: on all), and the step commits
/// nothing. NaN or Inf in the data is no error: CudaStep reports it.
///
/// Calls that use one coder must be ordered among each other; chunks of one verb may overlap.
class CudaCoder {
 public:
  /// Builds the device tables. Blocks. `plan`, `step` and `errors` must outlive the coder. Throws
  /// OutOfMemory or CudaError.
  CudaCoder(const Plan& plan, std::shared_ptr<MemoryResource> device_memory, CudaStep& step,
            const ErrorRing& errors, StreamView stream);
  ~CudaCoder();
  CudaCoder(CudaCoder&&) noexcept;
  CudaCoder& operator=(CudaCoder&&) noexcept;

  /// All N shards. Block codecs: one launch a section.
  void encode(int chunk, ConstTensorView gradients, CudaState& state, const CudaCall& call,
              ByteView slots);

  /// The owner's step on the N slots that came for state.shard().
  void reduce_encode(int chunk, ConstByteView slots, CudaState& state, const CudaCall& call,
                     ByteView slot_out);

  /// Writes every span of the chunk from the N owners' slots.
  void decode(int chunk, ConstByteView slots, const CudaCall& call, TensorView gradients);

  /// As Coder::reduce.
  void reduce(int chunk, ConstByteView slots, int shard, const CudaCall& call, TensorView out,
              std::int64_t out_origin);

  /// Device memory that the coder holds.
  std::size_t workspace_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thinwire::compress
