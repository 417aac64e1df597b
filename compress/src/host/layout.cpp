#include "host/layout.hpp"

#include <algorithm>

#include "run_layout.hpp"

namespace thinwire::compress {
namespace {

/// Elements of an item: long enough to hide what an item costs, short enough that its payload is
/// still in the cache when it is digested.
constexpr std::int64_t item_elements = 65536;

}  // namespace

HostLayout::HostLayout(const Plan& plan) : plan_{&plan} {
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (int shard = 0; shard < plan.ranks(); ++shard) {
      first_item_.push_back(items_.size());
      for (const Run& run : plan.slot(shard, chunk).runs) {
        if (plan.sections()[run.section].codec != Codec::topk) add_run(shard, run);
      }
    }
  }
  first_item_.push_back(items_.size());
}

void HostLayout::add_run(int shard, const Run& run) {
  const Codec codec = plan_->sections()[run.section].codec;
  const std::int64_t block = block_elements(codec);
  std::int64_t room = 0;
  for (const Piece& piece : run.pieces) {
    for (std::int64_t offset = 0; offset < piece.elements;) {
      if (room < block) {
        items_.push_back(
            {.shard = shard, .run = &run, .stretches = {}, .scale_bytes = {}, .value_bytes = {}});
        room = item_elements;
      }
      const std::int64_t whole = std::min(piece.elements - offset, room / block * block);
      const std::size_t scale = scale_bytes(codec, piece.first_block + offset / block);
      const std::size_t value = piece.value_byte + value_bytes(codec, offset);
      WorkItem& item = items_.back();
      if (item.stretches.empty()) {
        item.scale_bytes[0] = scale;
        item.value_bytes[0] = value;
      }
      item.stretches.push_back({&piece, offset, whole, scale, value});
      item.scale_bytes[1] = scale + scale_bytes(codec, ceil_div(whole, block));
      item.value_bytes[1] = value + value_bytes(codec, whole);
      offset += whole;
      room -= whole;
    }
  }
}

std::span<const WorkItem> HostLayout::items(int chunk) const {
  const auto ranks = static_cast<std::size_t>(plan_->ranks());
  const std::size_t first = first_item_[static_cast<std::size_t>(chunk) * ranks];
  const std::size_t last = first_item_[(static_cast<std::size_t>(chunk) + 1) * ranks];
  return {items_.data() + first, last - first};
}

std::span<const WorkItem> HostLayout::items(int chunk, int shard) const {
  const std::size_t at =
      static_cast<std::size_t>(chunk) * static_cast<std::size_t>(plan_->ranks()) +
      static_cast<std::size_t>(shard);
  return {items_.data() + first_item_[at], first_item_[at + 1] - first_item_[at]};
}

}  // namespace thinwire::compress
