#include "thinwire/comm/control_plane.hpp"

#include <fmt/format.h>

#include <charconv>

#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

void append(std::string& text, std::string_view part) {
  text += fmt::format("{}:", part.size());
  text += part;
}

/// Fields on the wire: "<length>:<bytes>" for each name and value in turn.
std::string encode(const Fields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) {
    append(text, name);
    append(text, value);
  }
  return text;
}

std::string_view take(std::string_view& text, int from) {
  std::size_t length = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), length);
  const auto digits = static_cast<std::size_t>(end - text.data());
  if (status != std::errc{} || digits >= text.size() || text[digits] != ':' ||
      length > text.size() - digits - 1) {
    throw FormatError{
        fmt::format("require_equal: the fields of rank {} are not in the expected form; do all "
                    "ranks run the same version of thinwire?",
                    from)};
  }
  const auto part = text.substr(digits + 1, length);
  text.remove_prefix(digits + 1 + length);
  return part;
}

Fields decode(std::string_view text, int from) {
  Fields fields;
  while (!text.empty()) {
    const auto name = take(text, from);
    const auto value = take(text, from);
    fields.emplace_back(name, value);
  }
  return fields;
}

/// Throws for the first field in which `peer` differs from us; one that a rank lacks reads
/// "(none)".
[[noreturn]] void throw_mismatch(std::string_view context, const Fields& mine, const Fields& theirs,
                                 int peer) {
  const Fields::value_type none{"", "(none)"};
  std::size_t i = 0;
  while (i < mine.size() && i < theirs.size() && mine[i] == theirs[i]) ++i;
  const auto& here = i < mine.size() ? mine[i] : none;
  const auto& there = i < theirs.size() ? theirs[i] : none;
  if (here.first == there.first || here.first.empty() || there.first.empty()) {
    const auto& name = here.first.empty() ? there.first : here.first;
    throw MismatchError{context, name, here.second, there.second, peer};
  }
  throw MismatchError{context, fmt::format("the name of field {}", i), here.first, there.first,
                      peer};
}

}  // namespace

void require_equal(ControlPlane& control, std::string_view context, const Fields& fields,
                   Timeout timeout) {
  const auto texts = control.all_gather(encode(fields), timeout);
  const auto& mine = texts[static_cast<std::size_t>(control.rank())];
  // Who differs from rank 0 compares itself with rank 0, all others with the first who differs: so
  // every rank throws, and "here" is always its own value.
  int peer = 0;
  while (peer < control.size() && texts[static_cast<std::size_t>(peer)] == mine) ++peer;
  if (peer == control.size()) return;
  throw_mismatch(context, fields, decode(texts[static_cast<std::size_t>(peer)], peer), peer);
}

std::string broadcast_from_root(ControlPlane& control, std::string_view value, Timeout timeout) {
  return control.all_gather(control.rank() == 0 ? value : std::string_view{}, timeout)[0];
}

}  // namespace thinwire::comm
