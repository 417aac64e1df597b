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
};

/// Zeroes this thread block's share of the padding of shards [from, to); `slots` is that of `from`.
__device__ inline void write_pads(const ByShard<PadRow>& pads, unsigned from, unsigned to,
                                  std::byte* slots, std::uint64_t slot_bytes,
                                  unsigned index = blockIdx.x, unsigned count = gridDim.x) {
  for (unsigned i = pads.first[from] + index; i < pads.first[to]; i += count) {
    const PadRow pad = pads.rows[i];
    std::byte* bytes = slots + (pad.shard - from) * slot_bytes + pad.byte;
    for (unsigned at = threadIdx.x; at < pad.bytes; at += blockDim.x) bytes[at] = std::byte{0};
  }
}

/// What a thread block gathers.
struct Arrival {
  std::uint32_t index;
  unsigned shard;
  std::uint64_t digest;
  std::uint32_t flags;
};

/// Leaves this thread block's digests and flags to the kernel that ends the verb. `digest_out`: of
/// what an owner wrote.
template <bool owner = false>
__device__ inline void gather(BlockShare& share, const VerbFrame& frame, const Arrival& arrival,
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
  __syncthreads();
  if (threadIdx.x != 0) return;
  std::uint64_t all_digests = 0;
  std::uint64_t all_out = 0;
  std::uint32_t all_flags = 0;
  for (int i = 0; i < block_warps(); ++i) {
    all_digests += share.digests[i];
    all_out += share.digests_out[i];
    all_flags |= share.flags[i];
  }
  frame.gathered.digests[arrival.index] = all_digests;
  if constexpr (owner) frame.gathered.digests_out[arrival.index] = all_out;
  if (all_flags != 0) atomicOr(frame.gathered.flags + arrival.shard, all_flags);
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

}  // namespace thinwire::compress::cuda
