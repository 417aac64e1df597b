#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cuda/rows.hpp"
#include "cuda/topk_rows.hpp"
#include "thinwire/core/cuda/error_ring.hpp"
#include "thinwire/core/dtype.hpp"

/// What kernels are launched with. Plain structs, passed by value.
namespace thinwire::compress::cuda {

/// What all launches of one verb and chunk share.
struct VerbFrame {
  ChunkView chunk;
  Gathered gathered;
  StepBlock* step;
  ErrorRing::DeviceHandle errors;
  TopkView topk;  ///< of the section, if it is one of topk
};

struct CodecSettings {
  bool rms;              ///< sign: scale by the root mean square
  bool zero_non_finite;  ///< NonFinite::zero
};

struct ResidualVersions {
  float* base[2];
};

/// The N slots that came for one shard.
struct Inputs {
  const std::byte* slots;
  std::uint64_t slot_bytes;
  int ranks;
  float one_over_ranks;
};

struct EncodeLaunch {
  VerbFrame frame;
  const void* gradients;
  DType dtype;
  const float* inv_scale;
  ResidualVersions worker;
  StateRow* state;
  std::byte* slots;
  CodecSettings settings;
  std::uint32_t first_tile;
  bool writes_pads;  ///< in the first launch of a verb, or when it ends
};

struct ReduceEncodeLaunch {
  VerbFrame frame;
  Inputs inputs;
  ResidualVersions server;
  StateRow* state;
  std::byte* slot_out;
  CodecSettings settings;
  std::uint32_t shard;
  std::uint32_t first_tile;
  bool writes_pads;  ///< in the first launch of a verb, or when it ends
};

struct ReduceLaunch {
  VerbFrame frame;
  Inputs inputs;
  const float* out_scale;
  void* out;
  std::int64_t out_origin;
  DType dtype;
  std::uint32_t shard;
  std::uint32_t first_tile;
};

struct DecodeLaunch {
  VerbFrame frame;
  const std::byte* slots;
  const float* out_scale;
  void* gradients;
  DType dtype;
  std::uint32_t first_tile;
};

/// Enqueues the kernels of one codec for one section: `tiles` thread blocks, one a tile.
class SectionLauncher {
 public:
  virtual ~SectionLauncher() = default;
  virtual void encode(const EncodeLaunch& launch, std::uint32_t tiles,
                      cudaStream_t stream) const = 0;
  virtual void reduce_encode(const ReduceEncodeLaunch& launch, std::uint32_t tiles,
                             cudaStream_t stream) const = 0;
  virtual void reduce(const ReduceLaunch& launch, std::uint32_t tiles,
                      cudaStream_t stream) const = 0;
  virtual void decode(const DecodeLaunch& launch, std::uint32_t tiles,
                      cudaStream_t stream) const = 0;
};

/// Each compiled in a file of its own.
const SectionLauncher& none_launcher();
const SectionLauncher& bf16_launcher();
const SectionLauncher& fp16_launcher();
const SectionLauncher& int8_launcher();
const SectionLauncher& int4_launcher();
const SectionLauncher& sign_launcher();
const SectionLauncher& topk_launcher();

/// End their verbs, behind the kernels of all sections: add up what those gathered, write headers,
/// check what peers sent, and overwrite with NaN what is refused.
void finish_encode(const EncodeLaunch& launch, cudaStream_t stream);
void finish_reduce_encode(const ReduceEncodeLaunch& launch, cudaStream_t stream);
void finish_reduce(const ReduceLaunch& launch, cudaStream_t stream);
void finish_decode(const DecodeLaunch& launch, cudaStream_t stream);

/// CudaStep's work.
void set_sequence(StepBlock* step, std::uint64_t sequence, cudaStream_t stream);
void end_step(StepBlock* step, int rows, ReportRow* reports, const float* found_inf,
              cudaStream_t stream);

}  // namespace thinwire::compress::cuda
