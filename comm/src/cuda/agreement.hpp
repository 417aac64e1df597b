#pragma once

#include <cstddef>
#include <cstdint>

#include "thinwire/compress/header.hpp"
#include "thinwire/core/cuda/error_ring.hpp"
#include "thinwire/core/stream.hpp"
#include "thinwire/core/tensor_view.hpp"

/// What ranks find out about each other beside their payloads, in device memory, on a stream.
namespace thinwire::comm::cuda {

/// The code of a DeviceError: a rank was in another call or plan. Behind the codes of SlotError.
constexpr std::uint32_t disagreement = 1000;

/// Words whose maximum over ranks proves agreement (as SummableExchange on the host): d and ~d, d
/// the digest of plan and call, then the two flags of the rank's own slot.
constexpr std::size_t agreement_words = 4;
void write_agreement(std::uint64_t* words, const std::byte* slot, std::uint64_t plan_id,
                     StreamView stream);

/// Writes the header of `slot`, whose payload of header.payload_length bytes is the ranks' average:
/// `header` with the sequence of `sent`, the flags of the maximised words and the checksum. Where
/// ranks disagree, the error ring says so and no decoder takes the slot.
void seal_average(std::byte* slot, const compress::SlotHeader& header, const std::byte* sent,
                  std::uint64_t plan_id, const std::uint64_t* words,
                  const ErrorRing::DeviceHandle& errors, StreamView stream);

/// words[0] and words[1] become nonzero where one of `count` slots says non-finite, or zeroed.
void collect_flags(std::uint64_t* words, const std::byte* slots, std::size_t slot_bytes, int count,
                   StreamView stream);

/// *verdict: 1 where words[0] or *found_inf (may be null) is not 0, else 0. The words become 0.
void judge(float* verdict, std::uint64_t* words, const float* found_inf, StreamView stream);

}  // namespace thinwire::comm::cuda
