#pragma once

#include <cstdint>

#include "cuda/error_ring.cuh"
#include "cuda/launch.hpp"
#include "cuda/unit.cuh"
#include "thinwire/compress/cuda_coder.hpp"

/// What the thread blocks of a verb do together: padding, digests, and checks of what came.
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

/// What thread blocks added at a place, as it was loaded; the loads of a verb's last thread block
/// are started together, for each is a trip to L2.
struct Taken {
  std::uint64_t parts[digest_parts];  ///< of the way lane_id()
  std::uint32_t flags;
};
__device__ inline Taken start_taking(const Gathered& gathered, unsigned place) {
  const volatile std::uint64_t* parts = parts_of(gathered, place, static_cast<unsigned>(lane_id()));
  return {{parts[0], parts[1], parts[2]}, __ldcg(gathered.flags + place)};
}

/// The digest that `count` thread blocks added at a place, where zero is left. By a warp: a lane a
/// way.
__device__ inline std::uint64_t take_digest(const Taken& taken, const Gathered& gathered,
                                            unsigned place, std::uint32_t count) {
  volatile std::uint64_t* parts = parts_of(gathered, place, static_cast<unsigned>(lane_id()));
  const std::uint32_t expected = count_of_way(count, static_cast<unsigned>(lane_id()));
  std::uint64_t digest = 0;
  for (int i = 0; i < digest_parts; ++i) {
    std::uint64_t part = taken.parts[i];
    while (part >> count_shift != expected) part = parts[i];  // on its way
    digest += (part & ((1ull << count_shift) - 1)) << (part_bits * i);
    parts[i] = 0;
  }
  return warp_sum(digest);
}
/// The flags, of which none are left. By a warp.
__device__ inline std::uint32_t take_flags(const Taken& taken, const Gathered& gathered,
                                           unsigned place) {
  if (lane_id() == 0) gathered.flags[place] = 0;
  return taken.flags;
}

/// What a thread block gathers.
struct Arrival {
  unsigned place;
  unsigned way;
  std::uint32_t count;  ///< thread blocks that come to this place
  std::uint64_t digest;
  std::uint32_t flags;
};

/// Adds this thread block's digests and flags to the call's. An owner's step adds `digest_out` at
/// place_out too. `fences`: what the thread block has written shall be seen by whoever finds its
/// digest added. In thread 0: true if it was the last of its way.
template <bool owner = false>
__device__ inline bool gather(BlockShare& share, const VerbFrame& frame, const Arrival& arrival,
                              std::uint64_t digest_out = 0, bool fences = false) {
  const unsigned warp = threadIdx.x / 32;
  const std::uint64_t digest = warp_sum(arrival.digest);
  if constexpr (owner) digest_out = warp_sum(digest_out);
  const std::uint32_t flags = __reduce_or_sync(all_lanes, arrival.flags);
  if (lane_id() == 0) {
    share.digests[warp] = digest;
    share.digests_out[warp] = digest_out;
    share.flags[warp] = flags;
  }
  fences = __syncthreads_or(static_cast<int>(fences)) != 0;
  if (threadIdx.x != 0) return false;
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
  if (all_flags != 0 || fences) fence();
  const std::uint32_t count = count_of_way(arrival.count, arrival.way);
  if (owner) add_digest(gathered, place_out, arrival.way, all_out, count);
  return add_digest(gathered, arrival.place, arrival.way, all_digests, count);
}

/// The same; true for all threads of the thread block that comes last of all. `shares_bytes`: it
/// may read or write where this one wrote. An encode ends so. The verbs that read what peers sent
/// end in a kernel of their own: where something is refused, all that was written is overwritten,
/// which would take a fence in every thread block (H200, top-k decode of 1e8 elements: 0.87 of the
/// copy's rate with it, 0.96 without).
__device__ inline bool gather_as_last(BlockShare& share, const VerbFrame& frame,
                                      const Arrival& arrival, bool shares_bytes) {
  const bool last = gather(share, frame, arrival, 0, shares_bytes);
  if (threadIdx.x == 0) {
    share.last = last;
    if (last) {
      // Others of the last one's kind passed their fences on to here.
      fence();
      share.last = atomicAdd(frame.gathered.arrived, 1u) + 1 == frame.ways;
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

/// A header without what is known last.
__device__ inline SlotHeader start_header(const VerbFrame& frame, Phase phase, unsigned shard) {
  SlotHeader header = load_header(&frame.chunk.headers[static_cast<int>(phase)][shard]);
  header.sequence = __ldcg(&frame.step->sequence);
  return header;
}

/// Called by one lane.
__device__ inline void write_header(SlotHeader header, std::uint32_t flags, std::uint64_t checksum,
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

__device__ inline void write_element(void* tensor, DType dtype, std::int64_t at, float value) {
  if (dtype == DType::f32) {
    static_cast<float*>(tensor)[at] = narrow<float>(value);
  } else if (dtype == DType::f16) {
    static_cast<Half*>(tensor)[at] = narrow<Half>(value);
  } else {
    static_cast<BFloat16*>(tensor)[at] = narrow<BFloat16>(value);
  }
}

/// What is known of slots before their payload has been read: the digest of their seams, a lane's
/// share, and flag_refused if a header is wrong.
struct HeaderCheck {
  std::uint64_t digest = 0;
  std::uint32_t flags = 0;
};

/// Checks the headers of `count` slots for a shard, the first from rank `first_peer`. By the thread
/// block that begins the shard; by the kernel that ends the verb for an empty one.
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

/// By the last thread block of an encode.
static __device__ __noinline__ void finish_encode(const EncodeLaunch& launch) {
  const VerbFrame& frame = launch.frame;
  const std::uint64_t bytes = frame.chunk.slot_bytes[static_cast<int>(Phase::reduce)];
  for (unsigned shard = threadIdx.x / 32; shard < frame.chunk.shards; shard += block_warps()) {
    std::byte* slot = launch.slots + shard * bytes;
    const SlotHeader header = start_header(frame, Phase::reduce, shard);
    const Taken taken = start_taking(frame.gathered, shard);
    const std::uint64_t seams =
        seam_digest(frame.chunk.seams[static_cast<int>(Phase::reduce)], shard, slot);
    const std::uint64_t digest =
        take_digest(taken, frame.gathered, shard, frame.chunk.arrivals[shard]) + seams;
    const std::uint32_t flags = take_flags(taken, frame.gathered, shard);
    if (lane_id() == 0) write_header(header, flags, digest, slot);
  }
  if (threadIdx.x == 0) {
    *frame.gathered.arrived = 0;
    launch.state->worker_written = 1;
  }
}

}  // namespace thinwire::compress::cuda
