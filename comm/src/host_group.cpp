#include "host_group.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {

std::vector<int> agree_on_split(ControlPlane& control, int color, int key) {
  struct Wish {
    int color, key;
  };
  const Wish mine{std::max(color, -1), key};
  const auto texts = control.all_gather(
      std::string_view{reinterpret_cast<const char*>(&mine), sizeof mine}, config().timeout);
  std::vector<std::pair<int, int>> group;  // key, rank
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    Wish wish{};
    THINWIRE_EXPECTS(
        texts[rank].size() == sizeof wish, FormatError,
        fmt::format("rank {}: split met another call on rank {}", control.rank(), rank));
    std::memcpy(&wish, texts[rank].data(), sizeof wish);
    if (wish.color == mine.color) group.emplace_back(wish.key, static_cast<int>(rank));
  }
  std::vector<int> members;
  if (mine.color < 0) return members;
  std::sort(group.begin(), group.end());
  for (const auto& [_, rank] : group) members.push_back(rank);
  return members;
}

}  // namespace thinwire::comm
