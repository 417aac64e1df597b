#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "thinwire/compress/plan.hpp"

/// The 64-byte header of every slot and its checks. docs/wire-format.md draws it.
namespace thinwire::compress {

static_assert(std::endian::native == std::endian::little, "the wire format is little-endian");

constexpr std::uint32_t wire_magic = 0x52495754u;  // "TWIR" in memory
constexpr std::uint16_t wire_version = 1;

/// Bits of SlotHeader::flags.
enum SlotFlag : std::uint32_t {
  flag_non_finite = 1u,  ///< a block holds NaN or Inf and travels as NaN
  flag_zeroed = 2u       ///< such a block was sent as zero (policy `zero`)
};

struct SlotHeader {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint8_t operation;
  std::uint8_t codec;
  std::uint8_t dtype;
  std::uint8_t reserved0[3];
  std::uint32_t flags;
  std::uint64_t sequence;
  std::uint64_t plan_id;
  std::uint64_t elements;
  std::uint32_t block;
  std::uint32_t reserved1;
  std::uint64_t payload_length;
  std::uint64_t checksum;
};
static_assert(sizeof(SlotHeader) == 64 && offsetof(SlotHeader, flags) == 12 &&
              offsetof(SlotHeader, sequence) == 16 && offsetof(SlotHeader, block) == 40 &&
              offsetof(SlotHeader, checksum) == 56 && std::is_trivially_copyable_v<SlotHeader>);

constexpr std::size_t header_bytes = sizeof(SlotHeader);

/// splitmix64's finaliser (Steele, Lea, Flood 2014).
constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/// Sum mod 2^64 of mix64(word_i | i << 32) over the u32 words, i counting from `first_word`. Sums
/// of parts add up to the sum of the whole, in any order.
std::uint64_t digest(std::span<const std::byte> bytes, std::uint64_t first_word);

/// The header that the owner or worker of `shard` writes; flags and checksum are given.
SlotHeader make_header(const Plan& plan, int shard, int chunk, Phase phase, std::uint64_t sequence,
                       std::uint32_t flags, std::uint64_t checksum);

/// Checks a slot that came from `peer` against the plan, checksum included, and returns its flags.
/// Throws FormatError naming peer, field, value found and value expected. Reads only inside `slot`,
/// whatever its bytes say.
std::uint32_t check_slot(const Plan& plan, int shard, int chunk, Phase phase,
                         std::uint64_t sequence, int peer, std::span<const std::byte> slot);

}  // namespace thinwire::compress
