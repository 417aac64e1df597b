#include "host_group.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {

SplitGroup agree_on_split(ControlPlane& control, int color, int key, int number) {
  struct Wish {
    int color, key, number;
  };
  const Wish mine{std::max(color, -1), key, number};
  const auto texts = control.all_gather(
      std::string_view{reinterpret_cast<const char*>(&mine), sizeof mine}, config().timeout);
  std::vector<std::pair<int, int>> ranks;  // key, rank
  SplitGroup group;
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    Wish wish{};
    THINWIRE_EXPECTS(
        texts[rank].size() == sizeof wish, FormatError,
        fmt::format("rank {}: split met another call on rank {}", control.rank(), rank));
    std::memcpy(&wish, texts[rank].data(), sizeof wish);
    if (mine.color < 0 || wish.color != mine.color) continue;
    ranks.emplace_back(wish.key, static_cast<int>(rank));
    group.number = std::max(group.number, wish.number);
  }
  std::sort(ranks.begin(), ranks.end());
  for (const auto& [_, rank] : ranks) group.members.push_back(rank);
  return group;
}

}  // namespace thinwire::comm
