#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire::comm {

/// What a rank tells the others while it waits: it is alive, and not the one to blame.
struct WaitReport {
  std::string operation;   ///< "all_gather of 4096 bytes"
  std::vector<int> peers;  ///< for whom it waits
};

std::string encode(const WaitReport& report);

/// Throws FormatError if `text` is none, or names a rank that is not one of `size`.
WaitReport decode_wait_report(std::string_view text, int size);

/// Whom to name when a wait has timed out.
struct Blame {
  int culprit;
  std::string text;  ///< for whom, what is known of them, and what to look at
};

/// Who waits for whom, as far as this rank has heard. From whom it waits for, the way leads over
/// those who wait themselves to one who does not: it has died, is stuck, or is busy elsewhere.
class WaitReports {
 public:
  using Clock = std::chrono::steady_clock;

  /// As heard by `rank` of `size`.
  WaitReports(int rank, int size) : rank_{rank}, heard_(static_cast<std::size_t>(size)) {}

  /// The report holds for `valid`; another one is expected before.
  void take(int rank, WaitReport report, std::chrono::milliseconds valid);

  /// The rank waits no more; that too is a word of it.
  void forget(int rank);

  /// When this rank waits for `late` (not empty).
  Blame blame(const std::vector<int>& late) const;

 private:
  struct Heard {
    WaitReport report;
    Clock::time_point valid_until;
  };

  const WaitReport* report_of(int rank) const;
  /// Whoever has only missed a report may be slow; the culprit was never heard, or longest ago.
  int longest_silent(const std::vector<int>& silent) const;

  int rank_;
  std::vector<std::optional<Heard>> heard_;
};

}  // namespace thinwire::comm
