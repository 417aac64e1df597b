#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "thinwire/compress/header.hpp"

/// The two halves of check_slot, for a caller that computes the checksum in parts.
namespace thinwire::compress {

/// Checks size and header fields; the payload is not read. Throws as check_slot does.
SlotHeader check_fields(const Plan& plan, int shard, int chunk, Phase phase, std::uint64_t sequence,
                        int peer, std::span<const std::byte> slot);

/// Throws FormatError unless `computed`, the digest of the payload, is what the header says.
void check_checksum(const SlotHeader& header, std::uint64_t computed, int peer);

/// Bytes of the payload after the header.
inline std::size_t payload_length(const Slot& slot, Phase phase) {
  return phase == Phase::reduce ? slot.length : slot.length_out;
}

}  // namespace thinwire::compress
