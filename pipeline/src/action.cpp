#include "thinwire/pipeline/action.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::array<std::string_view, 11> names = {"F",           "B",       "I",      "W",
                                                    "SEND_F",      "RECV_F",  "SEND_B", "RECV_B",
                                                    "REDUCE_GRAD", "UNSHARD", "RESHARD"};

constexpr std::string_view overlap_suffix = ")OVERLAP_F_B";

[[noreturn]] void refuse(std::string_view cell, std::string_view why) {
  throw FormatError{
      fmt::format("cell '{}': {}; expected stage, kind (F B I W SEND_F RECV_F SEND_B RECV_B "
                  "REDUCE_GRAD UNSHARD "
                  "RESHARD), micro-batch, as in 0F3",
                  cell, why)};
}

Kind parse_kind(std::string_view letters, Dialect dialect, std::string_view cell) {
  if (dialect == Dialect::torch_old) {
    if (letters == "B") return Kind::input_gradient;
    if (letters == "BW") return Kind::backward;
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == letters) return static_cast<Kind>(i);
  }
  refuse(cell, fmt::format("unknown kind '{}'", letters));
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int parse_number(std::string_view digits, std::string_view cell) {
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    refuse(cell, fmt::format("'{}' is not a number in range", digits));
  }
  return value;
}

Action parse_action(std::string_view text, Dialect dialect, std::string_view cell) {
  std::size_t begin = 0;
  while (begin < text.size() && is_digit(text[begin])) ++begin;
  std::size_t end = text.size();
  while (end > begin && is_digit(text[end - 1])) --end;
  Action action;
  action.stage = parse_number(text.substr(0, begin), cell);
  action.kind = parse_kind(text.substr(begin, end - begin), dialect, cell);
  const std::string_view microbatch = text.substr(end);
  if (has_microbatch(action.kind)) {
    action.microbatch = parse_number(microbatch, cell);
  } else if (!microbatch.empty()) {
    refuse(cell, fmt::format("{} takes no micro-batch", to_string(action.kind)));
  }
  return action;
}

std::string_view trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

std::string_view to_string(Kind kind) { return names[static_cast<std::size_t>(kind)]; }

std::string to_string(const Action& action) {
  return has_microbatch(action.kind)
             ? fmt::format("{}{}{}", action.stage, to_string(action.kind), action.microbatch)
             : fmt::format("{}{}", action.stage, to_string(action.kind));
}

std::vector<Action> parse_cell(std::string_view cell, Dialect dialect) {
  std::string_view text = trim(cell);
  if (text.empty()) return {};
  if (text.front() != '(') return {parse_action(text, dialect, cell)};

  if (!text.ends_with(overlap_suffix)) refuse(cell, "an overlapped cell ends in )OVERLAP_F_B");
  text = text.substr(1, text.size() - 1 - overlap_suffix.size());
  std::vector<Action> parts;
  while (true) {
    const std::size_t semicolon = text.find(';');
    Action part = parse_action(trim(text.substr(0, semicolon)), dialect, cell);
    if (!is_compute(part.kind)) refuse(cell, "only F, B, I and W can overlap");
    part.joined = semicolon != std::string_view::npos;
    parts.push_back(part);
    if (!part.joined) break;
    text.remove_prefix(semicolon + 1);
  }
  if (parts.size() < 2) refuse(cell, "an overlapped cell holds two actions or more");
  return parts;
}

}  // namespace thinwire::pipeline
