#include "thinwire/compress/header.hpp"

#include <fmt/format.h>

#include <cstring>

#include "slot_check.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

constexpr std::uint32_t known_flags = flag_non_finite | flag_zeroed;

[[noreturn]] void refuse(int peer, std::string_view field, std::string_view found,
                         std::string_view expected) {
  throw FormatError{
      fmt::format("payload from rank {}: {} is {}, expected {}", peer, field, found, expected),
      peer};
}

template <typename Number>
void require_equal(int peer, std::string_view field, Number found, Number expected) {
  if (found != expected) {
    refuse(peer, field, fmt::format("{0} ({0:#x})", found), fmt::format("{0} ({0:#x})", expected));
  }
}

}  // namespace

SlotHeader make_header(const Plan& plan, int shard, int chunk, Phase phase, std::uint64_t sequence,
                       std::uint32_t flags, std::uint64_t checksum) {
  const Slot& slot = plan.slot(shard, chunk);
  return {.magic = wire_magic,
          .version = wire_version,
          .operation = static_cast<std::uint8_t>(plan.settings().operation),
          .codec = static_cast<std::uint8_t>(plan.header_codec()),
          .dtype = static_cast<std::uint8_t>(plan.settings().dtype),
          .reserved0 = {},
          .flags = flags,
          .sequence = sequence,
          .plan_id = plan.id(),
          .elements = static_cast<std::uint64_t>(slot.elements),
          .block = plan.header_block(),
          .reserved1 = 0,
          .payload_length = payload_length(slot, phase),
          .checksum = checksum};
}

SlotHeader check_fields(const Plan& plan, int shard, int chunk, Phase phase, std::uint64_t sequence,
                        int peer, std::span<const std::byte> slot) {
  const std::size_t length = payload_length(plan.slot(shard, chunk), phase);
  if (slot.size() < header_bytes + length) {
    refuse(peer, "slot size", fmt::format("{} bytes", slot.size()),
           fmt::format("at least {} bytes", header_bytes + length));
  }
  SlotHeader found;
  std::memcpy(&found, slot.data(), sizeof found);
  const SlotHeader expected = make_header(plan, shard, chunk, phase, sequence, 0, 0);

  require_equal(peer, "magic", found.magic, expected.magic);
  require_equal(peer, "wire version", found.version, expected.version);
  require_equal(peer, "operation", found.operation, expected.operation);
  require_equal(peer, "codec", found.codec, expected.codec);
  require_equal(peer, "dtype", found.dtype, expected.dtype);
  require_equal(peer, "sequence", found.sequence, expected.sequence);
  require_equal(peer, "plan id", found.plan_id, expected.plan_id);
  require_equal(peer, "elements", found.elements, expected.elements);
  require_equal(peer, "block", found.block, expected.block);
  require_equal(peer, "payload length", found.payload_length, expected.payload_length);
  require_equal(peer, "unknown flags", found.flags & ~known_flags, 0u);
  for (const std::uint8_t byte : found.reserved0) {
    require_equal(peer, "reserved byte", byte, std::uint8_t{0});
  }
  require_equal(peer, "reserved word", found.reserved1, 0u);
  return found;
}

void check_checksum(const SlotHeader& header, std::uint64_t computed, int peer) {
  require_equal(peer, "checksum", computed, header.checksum);
}

std::uint32_t check_slot(const Plan& plan, int shard, int chunk, Phase phase,
                         std::uint64_t sequence, int peer, std::span<const std::byte> slot) {
  const SlotHeader header = check_fields(plan, shard, chunk, phase, sequence, peer, slot);
  const std::size_t length = payload_length(plan.slot(shard, chunk), phase);
  check_checksum(header, digest(slot.subspan(header_bytes, length), 0), peer);
  return header.flags;
}

}  // namespace thinwire::compress
