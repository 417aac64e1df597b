#include "cuda/finish.cuh"
#include "cuda/try.hpp"

/// How verbs end. A kernel of its own, not the last thread block of the one before: that would take
/// a fence in every thread block, since what is refused is overwritten whoever wrote it.
namespace thinwire::compress::cuda {
namespace {

constexpr int finish_threads = 1024;

__device__ void record_checksum(const VerbFrame& frame, int peer, std::uint64_t computed,
                                std::uint64_t said) {
  record_error(frame.errors, {.sequence = frame.step->sequence,
                              .code = static_cast<std::uint32_t>(SlotError::checksum),
                              .peer = peer,
                              .expected = computed,
                              .got = said});
}

/// Sum over a whole thread block; every thread gets it.
__device__ std::uint64_t block_sum(BlockShare& share, std::uint64_t value) {
  value = warp_sum(value);
  __syncthreads();
  if (lane_id() == 0) share.digests[threadIdx.x / 32] = value;
  __syncthreads();
  std::uint64_t sum = 0;
  for (int i = 0; i < block_warps(); ++i) sum += share.digests[i];
  return sum;
}

/// Digest of a whole payload by a thread block; for the paths that nobody should take.
__device__ std::uint64_t payload_digest(BlockShare& share, const std::byte* slot,
                                        std::uint64_t length) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(slot + header_bytes);
  std::uint64_t sum = 0;
  for (std::uint64_t i = threadIdx.x; i < length / 4; i += blockDim.x) {
    sum += digest_word(__ldcg(words + i), i);
  }
  return block_sum(share, sum);
}

/// Makes a shard's elements of this chunk NaN; element i stands at out[i - origin]. Threads
/// [first, first + count) of `count` together.
__device__ void write_nan(const ChunkView& chunk, unsigned shard, void* out, DType dtype,
                          std::int64_t origin, int first, int count) {
  for (unsigned p = 0; p < chunk.piece_count; ++p) {
    const PieceRow& piece = chunk.pieces[p];
    if (piece.shard != shard) continue;
    for (std::int64_t i = first; i < piece.elements; i += count) {
      write_element(out, dtype, piece.source - origin + i, __uint_as_float(canonical_nan_f32));
    }
  }
}

/// Digest of what was gathered for a shard; every thread gets it.
__device__ std::uint64_t gathered_digest(BlockShare& share, const std::uint64_t* digests,
                                         const ChunkView& chunk, unsigned shard) {
  std::uint64_t sum = 0;
  const std::uint32_t end = chunk.arrivals[shard + 1];
#pragma unroll 8
  for (std::uint32_t i = chunk.arrivals[shard] + threadIdx.x; i < end; i += blockDim.x) {
    sum += __ldcg(digests + i);
  }
  return block_sum(share, sum);
}

__device__ bool gathers_nothing(const ChunkView& chunk, unsigned shard) {
  return chunk.arrivals[shard] == chunk.arrivals[shard + 1];
}

/// The flags of a shard, of which none are left. By one thread.
__device__ std::uint32_t take_flags(const Gathered& gathered, unsigned shard) {
  const std::uint32_t flags = gathered.flags[shard];
  gathered.flags[shard] = 0;
  return flags;
}

/// A header without what is known last.
__device__ SlotHeader start_header(const VerbFrame& frame, Phase phase, unsigned shard) {
  SlotHeader header = load_header(&frame.chunk.headers[static_cast<int>(phase)][shard]);
  header.sequence = frame.step->sequence;
  return header;
}

/// Called by one lane.
__device__ void write_header(SlotHeader header, std::uint32_t flags, std::uint64_t checksum,
                             std::byte* slot) {
  header.flags = flags;
  header.checksum = checksum;
  union {
    SlotHeader header;
    uint4 parts[4];
  } written{header};
#pragma unroll
  for (int i = 0; i < 4; ++i) reinterpret_cast<uint4*>(slot)[i] = written.parts[i];
}

/// A thread block a shard.
__global__ void __launch_bounds__(finish_threads)
    finish_encode_kernel(const __grid_constant__ EncodeLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const ChunkView& chunk = frame.chunk;
  const auto phase = static_cast<int>(Phase::reduce);
  const unsigned shard = blockIdx.x;
  std::byte* slot = launch.slots + shard * chunk.slot_bytes[phase];
  if (launch.writes_pads) {  // nothing was launched before
    write_pads(chunk.pads[phase], shard, shard + 1, slot, 0, 0, 1);
    __syncthreads();
  }
  SlotHeader header{};
  std::uint64_t seams = 0;
  if (threadIdx.x < 32) {
    header = start_header(frame, Phase::reduce, shard);
    seams = seam_digest(chunk.seams[phase], shard, slot);
  }
  const std::uint64_t digest = gathered_digest(share, frame.gathered.digests, chunk, shard);
  if (threadIdx.x != 0) return;
  write_header(header, take_flags(frame.gathered, shard), digest + seams, slot);
  launch.state->worker_written = 1;
}

struct InputCheck {
  std::uint32_t flags;  ///< of all peers
  std::uint32_t own_flags;
  std::uint32_t bad;
};

/// What came of N peers' slots for a shard. Their digests were added up together: only when the sum
/// is wrong is it found out whose it is.
__device__ InputCheck check_inputs(BlockShare& share, const VerbFrame& frame, const Inputs& inputs,
                                   unsigned shard) {
  __shared__ InputCheck check;
  __shared__ bool differs;
  const auto header_of = [&](int peer) -> const SlotHeader& {
    return *reinterpret_cast<const SlotHeader*>(inputs.slots + peer * inputs.slot_bytes);
  };
  HeaderCheck late;
  if (gathers_nothing(frame.chunk, shard)) {
    late = check_headers(frame, Phase::reduce, shard, inputs.slots, inputs.slot_bytes, 0,
                         inputs.ranks);
  }
  const bool refused = __syncthreads_or(static_cast<int>(late.flags)) != 0;
  const std::uint64_t computed = gathered_digest(share, frame.gathered.digests, frame.chunk, shard);
  if (threadIdx.x < 32) {
    std::uint64_t said = 0;
    std::uint32_t flags = 0;
    for (int peer = lane_id(); peer < inputs.ranks; peer += 32) {
      said += header_of(peer).checksum;
      flags |= header_of(peer).flags;
    }
    said = warp_sum(said);
    flags = __reduce_or_sync(all_lanes, flags);
    if (threadIdx.x == 0) {
      differs = said != computed;
      const std::uint32_t own_flags = take_flags(frame.gathered, shard);
      const bool bad = refused || (own_flags & flag_refused) != 0 || differs;
      check = {flags, own_flags, bad ? 1u : 0u};
    }
  }
  __syncthreads();
  if (differs) {
    const std::uint64_t length =
        frame.chunk.headers[static_cast<int>(Phase::reduce)][shard].payload_length;
    for (int peer = 0; peer < inputs.ranks; ++peer) {
      const std::uint64_t digest =
          payload_digest(share, inputs.slots + peer * inputs.slot_bytes, length);
      if (threadIdx.x == 0 && digest != header_of(peer).checksum) {
        record_checksum(frame, peer, digest, header_of(peer).checksum);
      }
    }
    __syncthreads();
  }
  if (check.bad != 0 && threadIdx.x == 0) frame.step->failed = 1;
  return check;
}

/// Makes a slot that every rank decodes to NaN; returns the digest of its payload.
__device__ std::uint64_t poison_slot(BlockShare& share, const VerbFrame& frame, unsigned shard,
                                     std::byte* slot) {
  const std::uint64_t length =
      frame.chunk.headers[static_cast<int>(Phase::gather)][shard].payload_length;
  std::byte* payload = slot + header_bytes;
  for (std::uint64_t i = threadIdx.x; i < length; i += blockDim.x) payload[i] = std::byte{0};
  __syncthreads();
  const ByShard<PoisonRow>& poison = frame.chunk.poison;
  for (unsigned p = poison.first[shard]; p < poison.first[shard + 1]; ++p) {
    const PoisonRow row = poison.rows[p];
    for (std::uint64_t i = threadIdx.x; i < row.bytes; i += blockDim.x) {
      slot[row.byte + i] = static_cast<std::byte>(row.pattern >> (8 * (i % 4)));
    }
  }
  __syncthreads();
  return payload_digest(share, slot, length);
}

__global__ void __launch_bounds__(finish_threads)
    finish_reduce_encode_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const auto phase = static_cast<int>(Phase::gather);
  if (launch.writes_pads) {  // nothing was launched before
    write_pads(frame.chunk.pads[phase], launch.shard, launch.shard + 1, launch.slot_out, 0);
    __syncthreads();
  }
  SlotHeader header{};
  std::uint64_t seams = 0;
  if (threadIdx.x < 32) {
    header = start_header(frame, Phase::gather, launch.shard);
    seams = seam_digest(frame.chunk.seams[phase], launch.shard, launch.slot_out);
  }
  const InputCheck check = check_inputs(share, frame, launch.inputs, launch.shard);
  std::uint32_t flags = flag_non_finite;
  std::uint64_t digest = 0;
  if (check.bad != 0) {
    digest = poison_slot(share, frame, launch.shard, launch.slot_out);
  } else {
    digest = gathered_digest(share, frame.gathered.digests_out, frame.chunk, launch.shard) + seams;
    flags = check.flags | check.own_flags;
  }
  if (threadIdx.x != 0) return;
  write_header(header, flags, digest, launch.slot_out);
  launch.state->server_written = 1;
}

__global__ void __launch_bounds__(finish_threads)
    finish_reduce_kernel(const __grid_constant__ ReduceLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const InputCheck check = check_inputs(share, frame, launch.inputs, launch.shard);
  if (check.bad != 0) {
    write_nan(frame.chunk, launch.shard, launch.out, launch.dtype, launch.out_origin,
              static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  }
  if (threadIdx.x == 0) atomicOr(&frame.step->flags, check.flags);
}

/// A thread block a shard.
__global__ void __launch_bounds__(finish_threads)
    finish_decode_kernel(const __grid_constant__ DecodeLaunch launch) {
  __shared__ BlockShare share;
  __shared__ bool good;
  const VerbFrame& frame = launch.frame;
  const ChunkView& chunk = frame.chunk;
  const auto phase = static_cast<int>(Phase::gather);
  const unsigned shard = blockIdx.x;
  SlotHeader header{};
  if (threadIdx.x == 0) header = load_header(launch.slots + shard * chunk.slot_bytes[phase]);
  const std::uint64_t digest = gathered_digest(share, frame.gathered.digests, chunk, shard);
  if (threadIdx.x == 0) {
    good = (take_flags(frame.gathered, shard) & flag_refused) == 0;
    if (gathers_nothing(chunk, shard)) {
      good = check_fields(frame, chunk.headers[phase][shard], static_cast<int>(shard), header);
    }
    if (good && digest != header.checksum) {
      record_checksum(frame, static_cast<int>(shard), digest, header.checksum);
      good = false;
    }
    atomicOr(&frame.step->flags, header.flags & (flag_non_finite | flag_zeroed));
    if (!good) frame.step->failed = 1;
  }
  __syncthreads();
  if (good) return;
  write_nan(chunk, shard, launch.gradients, launch.dtype, 0, static_cast<int>(threadIdx.x),
            static_cast<int>(blockDim.x));
}

template <typename Launch>
void start(void (*kernel)(Launch), const Launch& launch, unsigned blocks, cudaStream_t stream) {
  kernel<<<blocks, finish_threads, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

}  // namespace

void finish_encode(const EncodeLaunch& launch, cudaStream_t stream) {
  start(finish_encode_kernel, launch, launch.frame.chunk.shards, stream);
}

void finish_reduce_encode(const ReduceEncodeLaunch& launch, cudaStream_t stream) {
  start(finish_reduce_encode_kernel, launch, 1, stream);
}

void finish_reduce(const ReduceLaunch& launch, cudaStream_t stream) {
  start(finish_reduce_kernel, launch, 1, stream);
}

void finish_decode(const DecodeLaunch& launch, cudaStream_t stream) {
  start(finish_decode_kernel, launch, launch.frame.chunk.shards, stream);
}

}  // namespace thinwire::compress::cuda
