#include "wait_reports.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// "rank 1, 2 and 5 others": a job may have thousands.
std::string list_of_ranks(const std::vector<int>& ranks) {
  constexpr std::size_t shown = 8;
  const auto end = ranks.begin() + static_cast<std::ptrdiff_t>(std::min(ranks.size(), shown));
  auto text = fmt::format("rank {}", fmt::join(ranks.begin(), end, ", "));
  if (ranks.size() > shown) text += fmt::format(" and {} others", ranks.size() - shown);
  return text;
}

}  // namespace

// "1,2;all_gather of 4096 bytes"
std::string encode(const WaitReport& report) {
  return fmt::format("{};{}", fmt::join(report.peers, ","), report.operation);
}

WaitReport decode_wait_report(std::string_view text, int size) {
  WaitReport report;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end && *at != ';') {
    int peer = -1;
    const auto [next, status] = std::from_chars(at, end, peer);
    THINWIRE_EXPECTS(status == std::errc{} && peer >= 0 && peer < size, FormatError,
                     fmt::format("'{}' is no report of who waits", text));
    report.peers.push_back(peer);
    at = next != end && *next == ',' ? next + 1 : next;
  }
  THINWIRE_EXPECTS(at != end, FormatError, fmt::format("'{}' is no report of who waits", text));
  report.operation = std::string{at + 1, end};
  return report;
}

void WaitReports::take(int rank, WaitReport report, std::chrono::milliseconds valid) {
  heard_[static_cast<std::size_t>(rank)] = Heard{std::move(report), Clock::now() + valid};
}

void WaitReports::forget(int rank) {
  auto& heard = heard_[static_cast<std::size_t>(rank)];
  if (heard) heard->valid_until = std::min(heard->valid_until, Clock::now());
}

const WaitReport* WaitReports::report_of(int rank) const {
  const auto& heard = heard_[static_cast<std::size_t>(rank)];
  return heard && Clock::now() < heard->valid_until ? &heard->report : nullptr;
}

int WaitReports::longest_silent(const std::vector<int>& silent) const {
  const auto last_word = [this](int rank) {
    const auto& heard = heard_[static_cast<std::size_t>(rank)];
    return heard ? heard->valid_until : Clock::time_point::min();
  };
  return *std::min_element(silent.begin(), silent.end(),
                           [&](int a, int b) { return last_word(a) < last_word(b); });
}

Blame WaitReports::blame(const std::vector<int>& late) const {
  std::vector<int> reached = late;
  std::vector<int> silent;
  std::vector<std::string> told;
  for (std::size_t i = 0; i < reached.size(); ++i) {  // grows on the way
    if (reached[i] == rank_) continue;
    const auto* report = report_of(reached[i]);
    if (report == nullptr) {
      silent.push_back(reached[i]);
      continue;
    }
    told.push_back(fmt::format("rank {} waits itself for {} in {}", reached[i],
                               list_of_ranks(report->peers), report->operation));
    for (const int peer : report->peers) {
      if (std::find(reached.begin(), reached.end(), peer) == reached.end()) {
        reached.push_back(peer);
      }
    }
  }
  std::sort(silent.begin(), silent.end());
  auto text = list_of_ranks(late);
  text += silent.empty() ? std::string{"; all are alive: do all ranks make the same calls?"}
                         : fmt::format(
                               "; nothing is heard of {}: is it alive, and does it make "
                               "the same calls?",
                               list_of_ranks(silent));
  if (!told.empty()) {
    constexpr std::size_t shown = 4;
    const bool more = told.size() > shown;
    told.resize(std::min(told.size(), shown));
    text += fmt::format(" ({}{})", fmt::join(told, "; "), more ? "; and so on" : "");
  }
  return {silent.empty() ? late.front() : longest_silent(silent), std::move(text)};
}

}  // namespace thinwire::comm
