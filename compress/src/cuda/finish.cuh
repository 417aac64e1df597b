#pragma once

#include <cstdint>

#include "cuda/error_ring.cuh"
#include "cuda/launch.hpp"
#include "cuda/unit.cuh"
#include "thinwire/compress/cuda_coder.hpp"

/// What the thread blocks of a verb do together: padding, digests, and the last one's work.
namespace thinwire::compress::cuda {

/// Orders what this thread block has done before what another does after it has seen it. Lighter
/// than __threadfence, which is sequentially consistent.
__device__ inline void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

constexpr int most_warps = 32;
__device__ inline int block_warps() { return static_cast<int>(blockDim.x / 32); }

/// Beside the SlotFlag bits that are gathered: what a peer sent cannot be decoded.
constexpr std::uint32_t flag_refused = 1u << 31;

struct BlockShare {
  std::uint64_t digests[most_warps];
  std::uint64_t digests_out[most_warps];
  std::uint32_t flags[most_warps];
  bool last;
};

/// Zeroes this thread block's share of the padding of shards [from, to); `slots` is that of `from`.
/// True if there was any.
__device__ inline bool write_pads(const ByShard<PadRow>& pads, unsigned from, unsigned to,
                                  std::byte* slots, std::uint64_t slot_bytes) {
  const unsigned first = pads.first[from] + blockIdx.x;
  for (unsigned i = first; i < pads.first[to]; i += gridDim.x) {
    const PadRow pad = pads.rows[i];
    std::byte* bytes = slots + (pad.shard - from) * slot_bytes + pad.byte;
    for (unsigned at = threadIdx.x; at < pad.bytes; at += blockDim.x) bytes[at] = std::byte{0};
  }
  return first < pads.first[to];
}

/// A digest of many thread blocks is gathered in three sums of 22 bits of it each. Above bit 44
/// each sum counts who has added, so that whoever finds the count complete needs no fence, which
/// would wait for all the stores of each thread block, to trust it.
constexpr int digest_parts = 3;
constexpr int part_bits = 22;
constexpr int count_shift = 44;
constexpr std::uint64_t part_mask = (1ull << part_bits) - 1;

__device__ inline std::uint64_t* parts_of(const Gathered& gathered, unsigned place, unsigned way) {
  return gathered.digests + way_words * (ways * place + way);
}

/// Adds at one way of a place; true if that was the last of `count`.
__device__ inline bool add_digest(const Gathered& gathered, unsigned place, unsigned way,
                                  std::uint64_t digest, std::uint32_t count) {
  auto* parts = reinterpret_cast<unsigned long long*>(parts_of(gathered, place, way));
  constexpr unsigned long long one = 1ull << count_shift;
  atomicAdd(parts + 1, (digest >> part_bits & part_mask) + one);
  atomicAdd(parts + 2, (digest >> 2 * part_bits) + one);
  return atomicAdd(parts, (digest & part_mask) + one) >> count_shift == count - 1;
}

/// Takes what `count` thread blocks added at a place and leaves zero. By a warp: a lane a way.
__device__ inline std::uint64_t take_digest(const Gathered& gathered, unsigned place,
                                            std::uint32_t count) {
  volatile std::uint64_t* parts = parts_of(gathered, place, static_cast<unsigned>(lane_id()));
  const std::uint32_t expected = count_of_way(count, static_cast<unsigned>(lane_id()));
  std::uint64_t digest = 0;
  for (int i = 0; i < digest_parts; ++i) {
    std::uint64_t part = parts[i];
    while (part >> count_shift != expected) part = parts[i];  // on its way
    digest += (part & ((1ull << count_shift) - 1)) << (part_bits * i);
    parts[i] = 0;
  }
  return warp_sum(digest);
}
__device__ inline std::uint32_t take_flags(const Gathered& gathered, unsigned place) {
  const std::uint32_t flags = __ldcg(gathered.flags + place);
  __syncwarp();
  if (lane_id() == 0) gathered.flags[place] = 0;
  return flags;
}

/// What a thread block tells the last one.
struct Arrival {
  unsigned place;
  unsigned way;
  std::uint32_t count;  ///< thread blocks that come to this place
  std::uint64_t digest;
  std::uint32_t flags;
  bool shares_bytes;  ///< the last one may read or write where this one wrote
};

/// Adds this thread block's digests and flags to the call's; true in the last one to come. An
/// owner's step adds `digest_out` at place_out too.
template <bool owner = false>
__device__ inline bool arrive(BlockShare& share, const VerbFrame& frame, const Arrival& arrival,
                              std::uint64_t digest_out = 0) {
  const unsigned warp = threadIdx.x / 32;
  const std::uint64_t digest = warp_sum(arrival.digest);
  if constexpr (owner) digest_out = warp_sum(digest_out);
  const std::uint32_t flags = __reduce_or_sync(all_lanes, arrival.flags);
  if (lane_id() == 0) {
    share.digests[warp] = digest;
    share.digests_out[warp] = digest_out;
    share.flags[warp] = flags;
  }
  const bool shares_bytes = __syncthreads_or(arrival.shares_bytes) != 0;
  if (threadIdx.x == 0) {
    std::uint64_t all_digests = 0;
    std::uint64_t all_out = 0;
    std::uint32_t all_flags = 0;
    for (int i = 0; i < block_warps(); ++i) {
      all_digests += share.digests[i];
      all_out += share.digests_out[i];
      all_flags |= share.flags[i];
    }
    const Gathered& gathered = frame.gathered;
    if (all_flags != 0) atomicOr(gathered.flags + arrival.place, all_flags);
    if (all_flags != 0 || shares_bytes) fence();
    const std::uint32_t count = count_of_way(arrival.count, arrival.way);
    if (owner) add_digest(gathered, place_out, arrival.way, all_out, count);
    share.last = add_digest(gathered, arrival.place, arrival.way, all_digests, count);
    if (share.last) {
      // Others of the last one's kind passed their fences on to here.
      fence();
      share.last = atomicAdd(gathered.arrived, 1u) + 1 == frame.ways;
    }
    if (share.last) fence();
  }
  __syncthreads();
  return share.last;
}

/// Digest of a slot's seams, by a warp.
__device__ inline std::uint64_t seam_digest(const ByShard<std::uint64_t>& seams, unsigned shard,
                                            const std::byte* slot) {
  std::uint64_t sum = 0;
  const auto* words = reinterpret_cast<const std::uint32_t*>(slot + header_bytes);
  for (unsigned i = seams.first[shard] + lane_id(); i < seams.first[shard + 1]; i += 32) {
    const std::uint64_t index = seams.rows[i];
    sum += digest_word(__ldcg(words + index), index);
  }
  return warp_sum(sum);
}

/// A header as four loads at once.
__device__ inline SlotHeader load_header(const void* from) {
  union {
    uint4 parts[4];
    SlotHeader header;
  } result;
#pragma unroll
  for (int i = 0; i < 4; ++i) result.parts[i] = __ldcg(static_cast<const uint4*>(from) + i);
  return result.header;
}

/// Called by one lane.
__device__ inline void write_header(const VerbFrame& frame, Phase phase, unsigned shard,
                                    std::uint32_t flags, std::uint64_t checksum, std::byte* slot) {
  SlotHeader header = load_header(&frame.chunk.headers[static_cast<int>(phase)][shard]);
  header.flags = flags;
  header.sequence = frame.step->sequence;
  header.checksum = checksum;
  union {
    SlotHeader header;
    uint4 parts[4];
  } written{header};
#pragma unroll
  for (int i = 0; i < 4; ++i) reinterpret_cast<uint4*>(slot)[i] = written.parts[i];
}

/// Compares the fields of a peer's header; records the first that is wrong. By one lane.
__device__ inline bool check_fields(const VerbFrame& frame, const SlotHeader& expected_at, int peer,
                                    const SlotHeader& found) {
  const SlotHeader expected = load_header(&expected_at);
  const std::uint64_t sequence = frame.step->sequence;
  bool good = true;
  const auto require = [&](SlotError code, std::uint64_t got, std::uint64_t wanted) {
    if (!good || got == wanted) return;
    good = false;
    record_error(frame.errors, {.sequence = frame.step->sequence,
                                .code = static_cast<std::uint32_t>(code),
                                .peer = peer,
                                .expected = wanted,
                                .got = got});
  };
  require(SlotError::magic, found.magic, expected.magic);
  require(SlotError::version, found.version, expected.version);
  require(SlotError::operation, found.operation, expected.operation);
  require(SlotError::codec, found.codec, expected.codec);
  require(SlotError::dtype, found.dtype, expected.dtype);
  require(SlotError::sequence, found.sequence, sequence);
  require(SlotError::plan_id, found.plan_id, expected.plan_id);
  require(SlotError::elements, found.elements, expected.elements);
  require(SlotError::block, found.block, expected.block);
  require(SlotError::payload_length, found.payload_length, expected.payload_length);
  require(SlotError::unknown_flags, found.flags & ~(flag_non_finite | flag_zeroed), 0);
  require(SlotError::reserved,
          found.reserved0[0] | found.reserved0[1] | found.reserved0[2] | found.reserved1, 0);
  return good;
}

__device__ inline void record_checksum(const VerbFrame& frame, int peer, std::uint64_t computed,
                                       std::uint64_t said) {
  record_error(frame.errors, {.sequence = frame.step->sequence,
                              .code = static_cast<std::uint32_t>(SlotError::checksum),
                              .peer = peer,
                              .expected = computed,
                              .got = said});
}

/// Sum over a whole thread block; every thread gets it.
__device__ inline std::uint64_t block_sum(BlockShare& share, std::uint64_t value) {
  value = warp_sum(value);
  __syncthreads();
  if (lane_id() == 0) share.digests[threadIdx.x / 32] = value;
  __syncthreads();
  std::uint64_t sum = 0;
  for (int i = 0; i < block_warps(); ++i) sum += share.digests[i];
  return sum;
}

/// Digest of a whole payload by a thread block; for the paths that nobody should take.
__device__ inline std::uint64_t payload_digest(BlockShare& share, const std::byte* slot,
                                               std::uint64_t length) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(slot + header_bytes);
  std::uint64_t sum = 0;
  for (std::uint64_t i = threadIdx.x; i < length / 4; i += blockDim.x) {
    sum += digest_word(__ldcg(words + i), i);
  }
  return block_sum(share, sum);
}

__device__ inline void write_element(void* tensor, DType dtype, std::int64_t at, float value) {
  if (dtype == DType::f32) {
    static_cast<float*>(tensor)[at] = narrow<float>(value);
  } else if (dtype == DType::f16) {
    static_cast<Half*>(tensor)[at] = narrow<Half>(value);
  } else {
    static_cast<BFloat16*>(tensor)[at] = narrow<BFloat16>(value);
  }
}

/// Makes a shard's elements of this chunk NaN; element i stands at out[i - origin]. Threads
/// [first, first + count) of `count` together.
__device__ inline void write_nan(const ChunkView& chunk, unsigned shard, void* out, DType dtype,
                                 std::int64_t origin, int first, int count) {
  for (unsigned p = 0; p < chunk.piece_count; ++p) {
    const PieceRow& piece = chunk.pieces[p];
    if (piece.shard != shard) continue;
    for (std::int64_t i = first; i < piece.elements; i += count) {
      write_element(out, dtype, piece.source - origin + i, __uint_as_float(canonical_nan_f32));
    }
  }
}

/// What is known of slots before their payload has been read: the digest of their seams, a lane's
/// share, and flag_refused if a header is wrong.
struct HeaderCheck {
  std::uint64_t digest = 0;
  std::uint32_t flags = 0;
};

/// Checks the headers of `count` slots for a shard, the first from rank `first_peer`. By the thread
/// block that begins the shard, so that the last one finds it done; by the last one for an empty
/// shard.
__device__ inline HeaderCheck check_headers(const VerbFrame& frame, Phase phase, unsigned shard,
                                            const std::byte* slots, std::uint64_t slot_bytes,
                                            int first_peer, int count) {
  HeaderCheck result;
  const auto p = static_cast<int>(phase);
  for (int i = static_cast<int>(threadIdx.x / 32); i < count; i += block_warps()) {
    const std::byte* slot = slots + i * slot_bytes;
    const std::uint64_t seams = seam_digest(frame.chunk.seams[p], shard, slot);
    if (lane_id() != 0) continue;
    result.digest += seams;
    if (!check_fields(frame, frame.chunk.headers[p][shard], first_peer + i, load_header(slot))) {
      result.flags |= flag_refused;
    }
  }
  return result;
}

struct InputCheck {
  std::uint32_t flags;  ///< of all peers
  std::uint32_t bad;
};

/// What came of N peers' slots for a shard, by the last thread block. Their digests were added up
/// together: only when the sum is wrong is it found out whose it is.
__device__ inline InputCheck check_inputs(BlockShare& share, const VerbFrame& frame,
                                          const Inputs& inputs, unsigned shard) {
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
    std::uint64_t said = 0;
    std::uint32_t flags = 0;
    for (int peer = lane_id(); peer < inputs.ranks; peer += 32) {
      said += __ldcg(&header_of(peer).checksum);
      flags |= __ldcg(&header_of(peer).flags);
    }
    said = warp_sum(said);
    flags = __reduce_or_sync(all_lanes, flags);
    const std::uint32_t own_flags = __ldcg(frame.gathered.flags + place_in);
    const std::uint64_t computed =
        take_digest(frame.gathered, place_in, frame.chunk.arrivals[shard]);
    if (threadIdx.x == 0) {
      differs = said != computed;
      check = {flags, refused || (own_flags & flag_refused) != 0 || differs ? 1u : 0u};
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
__device__ inline std::uint64_t poison_slot(BlockShare& share, const VerbFrame& frame,
                                            unsigned shard, std::byte* slot) {
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

// ---- the last thread block of each verb ----

static __device__ __noinline__ void finish_encode(const EncodeLaunch& launch) {
  const VerbFrame& frame = launch.frame;
  const std::uint64_t bytes = frame.chunk.slot_bytes[static_cast<int>(Phase::reduce)];
  for (unsigned shard = threadIdx.x / 32; shard < frame.chunk.shards; shard += block_warps()) {
    std::byte* slot = launch.slots + shard * bytes;
    const std::uint64_t digest =
        take_digest(frame.gathered, shard, frame.chunk.arrivals[shard]) +
        seam_digest(frame.chunk.seams[static_cast<int>(Phase::reduce)], shard, slot);
    const std::uint32_t flags = take_flags(frame.gathered, shard);
    if (lane_id() == 0) write_header(frame, Phase::reduce, shard, flags, digest, slot);
  }
  if (threadIdx.x == 0) {
    *frame.gathered.arrived = 0;
    launch.state->worker_written = 1;
  }
}

static __device__ __noinline__ void finish_reduce_encode(const ReduceEncodeLaunch& launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
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
      take_digest(frame.gathered, place_out, frame.chunk.arrivals[launch.shard]) +
      seam_digest(frame.chunk.seams[static_cast<int>(Phase::gather)], launch.shard,
                  launch.slot_out);
  const std::uint32_t own_flags = take_flags(frame.gathered, place_in);
  if (check.bad == 0) {
    digest = gathered;
    flags |= own_flags;
  }
  if (lane_id() == 0) {
    write_header(frame, Phase::gather, launch.shard, flags, digest, launch.slot_out);
    *frame.gathered.arrived = 0;
    launch.state->server_written = 1;
  }
}

static __device__ __noinline__ void finish_reduce(const ReduceLaunch& launch) {
  __shared__ BlockShare share;
  const VerbFrame& frame = launch.frame;
  const InputCheck check = check_inputs(share, frame, launch.inputs, launch.shard);
  if (check.bad != 0) {
    write_nan(frame.chunk, launch.shard, launch.out, launch.dtype, launch.out_origin,
              static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  }
  if (threadIdx.x < 32) take_flags(frame.gathered, place_in);
  if (threadIdx.x == 0) {
    atomicOr(&frame.step->flags, check.flags);
    *frame.gathered.arrived = 0;
  }
}

static __device__ __noinline__ void finish_decode(const DecodeLaunch& launch) {
  const VerbFrame& frame = launch.frame;
  const std::uint64_t bytes = frame.chunk.slot_bytes[static_cast<int>(Phase::gather)];
  for (unsigned shard = threadIdx.x / 32; shard < frame.chunk.shards; shard += block_warps()) {
    const std::byte* slot = launch.slots + shard * bytes;
    const SlotHeader header = load_header(slot);
    const std::uint64_t digest = take_digest(frame.gathered, shard, frame.chunk.arrivals[shard]);
    bool good = (take_flags(frame.gathered, shard) & flag_refused) == 0;
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
  if (threadIdx.x == 0) *frame.gathered.arrived = 0;
}

}  // namespace thinwire::compress::cuda
