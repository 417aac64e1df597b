#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::string_view header = "thinwire-schedule";
constexpr int version = 1;

/// Cells of one list; overlapped actions share one.
std::vector<std::string> cells_of(const std::vector<Action>& list) {
  std::vector<std::string> cells;
  std::string open;
  for (const Action& action : list) {
    const std::string text = to_string(action);
    if (action.joined) {
      open += fmt::format("{}{}", open.empty() ? "(" : ";", text);
    } else if (!open.empty()) {
      cells.push_back(open + ";" + text + ")OVERLAP_F_B");
      open.clear();
    } else {
      cells.push_back(text);
    }
  }
  return cells;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::vector<std::string_view> words(std::string_view text) {
  auto parts = split(text, ' ');
  std::erase(parts, std::string_view{});
  return parts;
}

int number(std::string_view text, int line) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  THINWIRE_EXPECTS(error == std::errc{} && end == text.data() + text.size(), FormatError,
                   fmt::format("schedule, line {}: '{}' is not a number", line, text));
  return value;
}

std::string lane_words(const std::vector<int>& placement) {
  std::string text;
  for (const Lane& lane : lanes_of(placement)) text += fmt::format(" {}", to_string(lane));
  return text;
}

/// Adds the actions of one cell to a list; `where` opens the error.
void append_cell(std::vector<Action>& list, std::string_view cell, Dialect dialect,
                 const std::string& where) {
  try {
    const std::vector<Action> actions = parse_cell(cell, dialect);
    list.insert(list.end(), actions.begin(), actions.end());
  } catch (const FormatError& error) {
    throw FormatError{where + error.what()};
  }
}

void require_well_formed_file(const Schedule& schedule) {
  try {
    require_well_formed(schedule);
  } catch (const InvalidArgument& error) {
    throw FormatError{error.what()};
  }
}

}  // namespace

std::string to_text(const Schedule& schedule) {
  std::string text = fmt::format(
      "{} {}\nname {}\nmicrobatches {}\nplacement {}\nlanes{}\n", header, version, schedule.name,
      schedule.microbatches, fmt::join(schedule.placement, " "), lane_words(schedule.placement));
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    const auto cells = cells_of(schedule.actions[static_cast<std::size_t>(rank)]);
    text += fmt::format("rank {}: {}\n", rank, fmt::join(cells, " "));
  }
  return text;
}

Schedule from_text(std::string_view text) {
  Schedule schedule;
  int line_number = 0;
  for (std::string_view line : split(text, '\n')) {
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const auto parts = words(line);
    if (line_number == 1) {
      THINWIRE_EXPECTS(parts.size() == 2 && parts[0] == header, FormatError,
                       fmt::format("not a schedule: the first line is '{}', not '{} {}'", line,
                                   header, version));
      THINWIRE_EXPECTS(
          number(parts[1], line_number) == version, FormatError,
          fmt::format("schedule of version {}; this program reads version {}", parts[1], version));
      continue;
    }
    if (parts.empty() || parts[0].front() == '#') continue;
    if (parts[0] == "name" && parts.size() == 2) {
      schedule.name = parts[1];
    } else if (parts[0] == "microbatches" && parts.size() == 2) {
      schedule.microbatches = number(parts[1], line_number);
    } else if (parts[0] == "placement") {
      for (std::size_t i = 1; i < parts.size(); ++i) {
        schedule.placement.push_back(number(parts[i], line_number));
      }
    } else if (parts[0] == "lanes") {
      const std::string expected = lane_words(schedule.placement);
      THINWIRE_EXPECTS(
          fmt::format("{}", fmt::join(words(expected), " ")) ==
              fmt::format("{}", fmt::join(parts.begin() + 1, parts.end(), " ")),
          FormatError,
          fmt::format("schedule, line {}: the placement needs the lanes{}", line_number, expected));
    } else if (parts[0] == "rank" && parts.size() >= 2 && parts[1].ends_with(':')) {
      const int rank = number(parts[1].substr(0, parts[1].size() - 1), line_number);
      THINWIRE_EXPECTS(rank == schedule.ranks(), FormatError,
                       fmt::format("schedule, line {}: rank {} stands where rank {} belongs",
                                   line_number, rank, schedule.ranks()));
      auto& list = schedule.actions.emplace_back();
      for (std::size_t i = 2; i < parts.size(); ++i) {
        append_cell(list, parts[i], Dialect::torch,
                    fmt::format("schedule, line {}: ", line_number));
      }
    } else {
      throw FormatError{fmt::format("schedule, line {}: cannot read '{}'", line_number, line)};
    }
  }
  require_well_formed_file(schedule);
  return schedule;
}

std::string to_csv(const Schedule& schedule, Flavour flavour) {
  const bool comms = flavour == Flavour::compute_comms;
  const int lanes = static_cast<int>(lanes_of(schedule.placement).size());
  THINWIRE_EXPECTS(!comms || schedule.has_transfers() || lanes == 0, InvalidArgument,
                   "a compute_comms file needs a lowered schedule: call lower() first");
  std::string text;
  for (const auto& list : (comms ? schedule : strip(schedule)).actions) {
    text += fmt::format("{}\n", fmt::join(cells_of(list), ","));
  }
  return text;
}

Schedule from_csv(std::string_view text, Dialect dialect) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  Schedule schedule;
  std::map<int, int> rank_of_stage;
  for (std::string_view row : split(text, '\n')) {
    const int rank = schedule.ranks();
    auto& list = schedule.actions.emplace_back();
    int column = 0;
    for (std::string_view cell : split(row, ',')) {
      append_cell(list, cell, dialect, fmt::format("row {}, cell {}: ", rank, column++));
    }
    for (const Action& action : list) {
      const auto [entry, fresh] = rank_of_stage.emplace(action.stage, rank);
      THINWIRE_EXPECTS(fresh || entry->second == rank, FormatError,
                       fmt::format("row {}: {} stands here, but stage {} is on rank {}", rank,
                                   to_string(action), action.stage, entry->second));
      schedule.microbatches = std::max(schedule.microbatches, action.microbatch + 1);
    }
  }
  for (const auto& [stage, rank] : rank_of_stage) {
    THINWIRE_EXPECTS(stage == schedule.stages(), FormatError,
                     fmt::format("stage {} has no action on any rank", schedule.stages()));
    schedule.placement.push_back(rank);
  }
  require_well_formed_file(schedule);
  return schedule;
}

}  // namespace thinwire::pipeline
