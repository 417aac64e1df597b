#include "cuda/finish.cuh"
#include "cuda/try.hpp"

/// How the verbs that read what peers sent end: one thread block looks at what the others gathered,
/// and overwrites what they wrote if a slot is refused.
namespace thinwire::compress::cuda {
namespace {

constexpr int finish_threads = 256;

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

struct InputCheck {
  std::uint32_t flags;      ///< of all peers
  std::uint32_t own_flags;  ///< gathered here
  std::uint32_t bad;
};

/// What came of N peers' slots for a shard, by one thread block. Their digests were added up
/// together: only when the sum is wrong is it found out whose it is.
__device__ InputCheck check_inputs(BlockShare& share, const VerbFrame& frame, const Inputs& inputs,
                                   unsigned shard) {
  __shared__ InputCheck check;
  __shared__ bool differs;
  const auto header_of = [&](int peer) -> const SlotHeader& {
    return *reinterpret_cast<const SlotHeader*>(inputs.slots + peer * inputs.slot_bytes);
  };
  HeaderCheck late;
  if (frame.chunk.arrivals[shard] == 0) {
    late = check_headers(frame, Phase::reduce, shard, inputs.slots, inputs.slot_bytes, 0,
                         inputs.ranks);
  }
  const bool refused = __syncthreads_or(static_cast<int>(late.flags)) != 0;
  if (threadIdx.x < 32) {
    const Taken taken = start_taking(frame.gathered, place_in);
    std::uint64_t said = 0;
    std::uint32_t flags = 0;
    for (int peer = lane_id(); peer < inputs.ranks; peer += 32) {
      said += __ldcg(&header_of(peer).checksum);
      flags |= __ldcg(&header_of(peer).flags);
    }
    said = warp_sum(said);
    flags = __reduce_or_sync(all_lanes, flags);
    const std::uint64_t computed =
        take_digest(taken, frame.gathered, place_in, frame.chunk.arrivals[shard]);
    if (threadIdx.x == 0) {
      differs = said != computed;
      check = {flags, taken.flags,
               refused || (taken.flags & flag_refused) != 0 || differs ? 1u : 0u};
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

__global__ void finish_reduce_encode_kernel(const __grid_constant__ ReduceEncodeLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  if (launch.writes_pads) {  // nothing was launched before
    write_pads(frame.chunk.pads[static_cast<int>(Phase::gather)], launch.shard, launch.shard + 1,
               launch.slot_out, 0);
    __syncthreads();
  }
  SlotHeader header{};
  Taken out{};
  std::uint64_t seams = 0;
  if (threadIdx.x < 32) {
    header = start_header(frame, Phase::gather, launch.shard);
    out = start_taking(frame.gathered, place_out);
    seams = seam_digest(frame.chunk.seams[static_cast<int>(Phase::gather)], launch.shard,
                        launch.slot_out);
  }
  const InputCheck check = check_inputs(share, frame, launch.inputs, launch.shard);
  std::uint32_t flags = check.flags;
  std::uint64_t digest = 0;
  if (check.bad != 0) {
    digest = poison_slot(share, frame, launch.shard, launch.slot_out);
    flags = flag_non_finite;
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  const std::uint64_t gathered =
      take_digest(out, frame.gathered, place_out, frame.chunk.arrivals[launch.shard]) + seams;
  if (check.bad == 0) {
    digest = gathered;
    flags |= check.own_flags;
  }
  if (lane_id() == 0) {
    write_header(header, flags, digest, launch.slot_out);
    frame.gathered.flags[place_in] = 0;
    launch.state->server_written = 1;
  }
}

__global__ void finish_reduce_kernel(const __grid_constant__ ReduceLaunch launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const InputCheck check = check_inputs(share, frame, launch.inputs, launch.shard);
  if (check.bad != 0) {
    write_nan(frame.chunk, launch.shard, launch.out, launch.dtype, launch.out_origin,
              static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  }
  if (threadIdx.x == 0) {
    frame.gathered.flags[place_in] = 0;
    atomicOr(&frame.step->flags, check.flags);
  }
}

__global__ void finish_decode_kernel(const __grid_constant__ DecodeLaunch launch) {
  const VerbFrame& frame = launch.frame;
  const std::uint64_t bytes = frame.chunk.slot_bytes[static_cast<int>(Phase::gather)];
  for (unsigned shard = threadIdx.x / 32; shard < frame.chunk.shards; shard += block_warps()) {
    const std::byte* slot = launch.slots + shard * bytes;
    const SlotHeader header = load_header(slot);
    const Taken taken = start_taking(frame.gathered, shard);
    const std::uint64_t digest =
        take_digest(taken, frame.gathered, shard, frame.chunk.arrivals[shard]);
    bool good = (take_flags(taken, frame.gathered, shard) & flag_refused) == 0;
    if (lane_id() == 0) {
      if (frame.chunk.arrivals[shard] == 0) {
        good = check_fields(frame, frame.chunk.headers[static_cast<int>(Phase::gather)][shard],
                            static_cast<int>(shard), header);
      }
      if (good && digest != header.checksum) {
        record_checksum(frame, static_cast<int>(shard), digest, header.checksum);
        good = false;
      }
      atomicOr(&frame.step->flags, header.flags & (flag_non_finite | flag_zeroed));
      if (!good) frame.step->failed = 1;
    }
    if (!__all_sync(all_lanes, good)) {
      write_nan(frame.chunk, shard, launch.gradients, launch.dtype, 0, lane_id(), 32);
    }
  }
}

}  // namespace

void finish_reduce_encode(const ReduceEncodeLaunch& launch, cudaStream_t stream) {
  finish_reduce_encode_kernel<<<1, finish_threads, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

void finish_reduce(const ReduceLaunch& launch, cudaStream_t stream) {
  finish_reduce_kernel<<<1, finish_threads, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

void finish_decode(const DecodeLaunch& launch, cudaStream_t stream) {
  finish_decode_kernel<<<1, finish_threads, 0, stream>>>(launch);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

}  // namespace thinwire::compress::cuda
