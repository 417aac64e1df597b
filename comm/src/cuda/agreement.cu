#include <algorithm>

#include "cuda/agreement.hpp"
#include "cuda/error_ring.cuh"
#include "cuda/try.hpp"

namespace thinwire::comm::cuda {
namespace {

using compress::mix64;
using compress::SlotHeader;

constexpr int threads = 256;
constexpr std::size_t most_blocks = 1056;

__device__ const SlotHeader& header_of(const std::byte* slot) {
  return *reinterpret_cast<const SlotHeader*>(slot);
}

__device__ std::uint64_t call_digest(std::uint64_t plan_id, std::uint64_t sequence) {
  return mix64(mix64(plan_id) + sequence);
}

__global__ void write_agreement_kernel(std::uint64_t* words, const std::byte* slot,
                                       std::uint64_t plan_id) {
  const SlotHeader& header = header_of(slot);
  const std::uint64_t digest = call_digest(plan_id, header.sequence);
  words[0] = digest;
  words[1] = ~digest;
  words[2] = header.flags & compress::flag_non_finite;
  words[3] = header.flags & compress::flag_zeroed;
}

__global__ void write_header_kernel(std::byte* slot, SlotHeader header, const std::byte* sent,
                                    std::uint64_t plan_id, const std::uint64_t* words,
                                    ErrorRing::DeviceHandle errors) {
  header.sequence = header_of(sent).sequence;
  header.flags = static_cast<std::uint32_t>(words[2] | words[3]);
  header.checksum = 0;
  const std::uint64_t digest = call_digest(plan_id, header.sequence);
  if (words[0] != digest || words[1] != ~digest) {
    record_error(errors, {.sequence = header.sequence,
                          .code = disagreement,
                          .peer = -1,
                          .expected = digest,
                          .got = words[0]});
    header.magic = 0;
  }
  *reinterpret_cast<SlotHeader*>(slot) = header;
}

/// compress::digest of the payload, added to the header.
__global__ void add_checksum_kernel(std::byte* slot, std::uint64_t count) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(slot + compress::header_bytes);
  std::uint64_t sum = 0;
  const std::uint64_t stride = static_cast<std::uint64_t>(gridDim.x) * threads;
  for (std::uint64_t i = static_cast<std::uint64_t>(blockIdx.x) * threads + threadIdx.x; i < count;
       i += stride) {
    sum += mix64(words[i] | i << 32);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(0xFFFFFFFFu, sum, distance);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(slot + offsetof(SlotHeader, checksum)),
              static_cast<unsigned long long>(sum));
  }
}

__global__ void collect_flags_kernel(std::uint64_t* words, const std::byte* slots,
                                     std::size_t slot_bytes, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    const std::uint32_t flags = header_of(slots + i * slot_bytes).flags;
    if ((flags & compress::flag_non_finite) != 0) words[0] = compress::flag_non_finite;
    if ((flags & compress::flag_zeroed) != 0) words[1] = compress::flag_zeroed;
  }
}

__global__ void judge_kernel(float* verdict, std::uint64_t* words, const float* found_inf) {
  *verdict = words[0] != 0 || (found_inf != nullptr && *found_inf != 0.0f) ? 1.0f : 0.0f;
  words[0] = 0;
  words[1] = 0;
}

}  // namespace

void write_agreement(std::uint64_t* words, const std::byte* slot, std::uint64_t plan_id,
                     StreamView stream) {
  write_agreement_kernel<<<1, 1, 0, stream.handle()>>>(words, slot, plan_id);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

void seal_average(std::byte* slot, const SlotHeader& header, const std::byte* sent,
                  std::uint64_t plan_id, const std::uint64_t* words,
                  const ErrorRing::DeviceHandle& errors, StreamView stream) {
  write_header_kernel<<<1, 1, 0, stream.handle()>>>(slot, header, sent, plan_id, words, errors);
  THINWIRE_CUDA_TRY(cudaGetLastError());
  const std::size_t count = header.payload_length / sizeof(std::uint32_t);
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min((count + threads - 1) / threads, most_blocks));
  add_checksum_kernel<<<blocks, threads, 0, stream.handle()>>>(slot, count);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

void collect_flags(std::uint64_t* words, const std::byte* slots, std::size_t slot_bytes, int count,
                   StreamView stream) {
  collect_flags_kernel<<<1, threads, 0, stream.handle()>>>(words, slots, slot_bytes, count);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

void judge(float* verdict, std::uint64_t* words, const float* found_inf, StreamView stream) {
  judge_kernel<<<1, 1, 0, stream.handle()>>>(verdict, words, found_inf);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

}  // namespace thinwire::comm::cuda
