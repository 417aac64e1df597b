#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "point_to_point.hpp"
#include "thinwire/comm/control_plane.hpp"
#include "thinwire/core/error.hpp"
#include "wait_reports.hpp"

namespace thinwire::comm {

/// The one ControlPlane, over any transport's ControlChannel. Each rank sends to each other one
/// directly: with no rank in the middle, a missing rank is seen and named by all.
class ChannelControlPlane final : public ControlPlane {
 public:
  /// `parent`: of the communicator that was split (null for the first one). Its abort is ours too:
  /// a rank that failed elsewhere in the parent may be the one that we wait for. `members`: our
  /// ranks as the parent counts them.
  ChannelControlPlane(int rank, int size, std::unique_ptr<ControlChannel> channel,
                      ChannelControlPlane* parent = nullptr, std::vector<int> members = {});

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::vector<std::string> all_gather(std::string_view mine, Timeout timeout) override;
  void post_abort(const AbortNotice& notice) noexcept override;
  std::optional<AbortNotice> abort_notice() override;
  void tie_to_parent() override { tied_ = true; }

  /// For every wait, now and then: tells the others, a few times a second, that this rank waits
  /// since `begin`, and for whom. Costs little when it is not yet time to.
  void report_wait(std::chrono::steady_clock::time_point begin,
                   const std::function<WaitReport()>& describe);
  /// The rank goes on. Does nothing unless something was reported.
  void end_wait();

  /// After an abort here or in a parent: the rank that another one has blamed, which may not know
  /// of it; -1 if the culprit has told it itself. Reads no letters.
  std::optional<int> lost_rank();

  /// Whom to name when a wait for `late` has timed out. Does not block.
  Blame blame(const std::vector<int>& late);

 private:
  /// Texts of one all_gather by rank, as they come in.
  using Round = std::vector<std::optional<std::string>>;

  void read_letters();
  void take_letter(const ControlChannel::Letter& letter);
  void end(const AbortNotice& notice, int teller);
  Round& round(std::uint64_t number);
  std::vector<int> missing(std::uint64_t number);
  void broadcast(std::string_view text);
  std::optional<AbortNotice> notice_of_parent();
  WaitReport in_parent(WaitReport report) const;
  std::optional<Blame> blame_of_parent(std::vector<int> late);
  int place_of_member(int rank_of_parent) const;  ///< -1: not one of us

  const int rank_;
  const int size_;
  ChannelControlPlane* const parent_;
  const std::vector<int> members_;

  std::atomic<bool> tied_ = false;

  std::mutex mutex_;  // guards what follows
  std::unique_ptr<ControlChannel> channel_;
  std::optional<AbortNotice> notice_;
  int teller_ = -1;                        // the rank whose notice it is
  std::map<std::uint64_t, Round> rounds_;  // begun and not yet returned
  std::uint64_t next_round_ = 0;
  WaitReports reports_;
  std::optional<std::chrono::steady_clock::time_point> last_report_;  // of the wait under way
};

/// What a rank sends to each other one in post_abort; a channel that knows of a lost rank says it
/// in that rank's name.
std::string make_abort_letter(const AbortNotice& notice);

/// "the communicator was aborted by rank 2: reason", ready to be thrown.
AbortedError aborted_error(std::string_view context, const AbortNotice& notice);

/// "rank 0: barrier timed out after 500 ms waiting for ..., and what to do"; the time is since
/// `begin`, when the operation was begun.
TimeoutError timeout_error(std::string_view context, std::chrono::steady_clock::time_point begin,
                           const Blame& blame);

}  // namespace thinwire::comm
