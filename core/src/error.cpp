#include "thinwire/core/error.hpp"

#include <fmt/format.h>

namespace thinwire {

OutOfMemory::OutOfMemory(std::string_view tag, std::size_t requested_, std::size_t in_use_,
                         std::size_t limit_)
    : Error{limit_ == 0
                ? fmt::format(
                      "out of memory: the system refused {} bytes for '{}' ({} bytes in use)",
                      requested_, tag, in_use_)
                : fmt::format(
                      "out of memory: {} bytes for '{}' on top of {} in use exceed the limit "
                      "of {} bytes; raise the limit or shrink the buckets",
                      requested_, tag, in_use_, limit_)},
      requested{requested_},
      in_use{in_use_},
      limit{limit_} {}

MismatchError::MismatchError(std::string_view context, std::string_view field_,
                             std::string_view mine_, std::string_view theirs_, int peer_)
    : Error{fmt::format("{}: ranks disagree on {}: {} here, {} on rank {}", context, field_, mine_,
                        theirs_, peer_)},
      field{field_},
      mine{mine_},
      theirs{theirs_},
      peer{peer_} {}

FormatError::FormatError(const std::string& message, int peer_) : Error{message}, peer{peer_} {}

TransportError::TransportError(const std::string& message, int peer_)
    : Error{message}, peer{peer_} {}

namespace detail {

std::string with_location(std::string_view message, std::string_view file, int line) {
  if (const auto slash = file.rfind('/'); slash != std::string_view::npos) {
    file.remove_prefix(slash + 1);
  }
  return fmt::format("{} ({}:{})", message, file, line);
}

}  // namespace detail
}  // namespace thinwire
