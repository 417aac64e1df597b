#include "topk_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "thinwire/core/dtype.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.subspan(at, sizeof value).data(), sizeof value);
  return value;
}

}  // namespace

std::uint32_t TopkRun::word(std::int64_t block) const {
  return load<std::uint32_t>(bytes_, 4 * static_cast<std::size_t>(block));
}

std::int64_t TopkRun::block_elements(std::int64_t block) const {
  return std::min(topk_block, elements_ - block * topk_block);
}

std::int64_t TopkRun::local(std::int64_t entry) const {
  return load<std::uint16_t>(bytes_, parts_.local + 2 * static_cast<std::size_t>(entry));
}

float TopkRun::value(std::int64_t entry) const {
  return from_bf16_bits(
      load<std::uint16_t>(bytes_, parts_.value + 2 * static_cast<std::size_t>(entry)));
}

void TopkRun::check(int peer) const {
  const auto refuse = [&](std::int64_t block, std::string_view what) {
    throw FormatError{fmt::format("payload from rank {}: topk block {} of {}: {}", peer, block,
                                  parts_.blocks, what),
                      peer};
  };
  if (word(0) != 0 && word(0) != topk_non_finite) refuse(0, "first entry is not entry 0");
  for (std::int64_t block = 0; block < parts_.blocks; ++block) {
    const std::int64_t from = first(block);
    const std::int64_t to = word(block + 1) & (block + 1 < parts_.blocks ? ~topk_non_finite : ~0u);
    if (from > to || to > capacity_) {
      refuse(block, fmt::format("entries {} to {}, capacity {}", from, to, capacity_));
    }
    if (non_finite(block) && from != to) refuse(block, "a non-finite block has entries");
    std::int64_t before = -1;
    for (std::int64_t entry = from; entry < to; ++entry) {
      if (local(entry) <= before || local(entry) >= block_elements(block)) {
        refuse(block, fmt::format("entry {} has index {} after {}, block of {} elements", entry,
                                  local(entry), before, block_elements(block)));
      }
      before = local(entry);
    }
  }
}

}  // namespace thinwire::compress
