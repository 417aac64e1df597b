#include "channel_control_plane.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "backoff.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

// A letter: kind (1 byte), number (8 bytes: the round, the culprit, or how many milliseconds the
// report holds), text.
enum class Kind : char { gather = 'g', abort = 'a', wait = 'w', go_on = 'o' };
constexpr std::size_t head_bytes = 9;

/// Between two reports of a wait: each goes to all ranks, so the more there are, the rarer.
std::chrono::milliseconds beat_of(int ranks) {
  return std::chrono::milliseconds{100} * std::max(1, ranks / 64);
}

std::string make_letter(Kind kind, std::uint64_t number, std::string_view text) {
  std::string letter(head_bytes, static_cast<char>(kind));
  std::memcpy(letter.data() + 1, &number, sizeof number);
  letter += text;
  return letter;
}

}  // namespace

std::string make_abort_letter(const AbortNotice& notice) {
  return make_letter(Kind::abort, static_cast<std::uint64_t>(notice.culprit), notice.reason);
}

AbortedError aborted_error(std::string_view context, const AbortNotice& notice) {
  const auto who = notice.culprit < 0 ? std::string{"a rank outside of it"}
                                      : fmt::format("rank {}", notice.culprit);
  return AbortedError{fmt::format("{}: the communicator was aborted, because {} failed: {}",
                                  context, who, notice.reason),
                      notice.culprit};
}

TimeoutError timeout_error(std::string_view context, std::chrono::steady_clock::time_point begin,
                           const Blame& blame) {
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - begin);
  return TimeoutError{
      fmt::format("{} timed out after {} ms waiting for {}. If a rank is only slow, raise "
                  "THINWIRE_TIMEOUT",
                  context, waited.count(), blame.text),
      blame.culprit};
}

ChannelControlPlane::ChannelControlPlane(int rank, int size,
                                         std::unique_ptr<ControlChannel> channel,
                                         ChannelControlPlane* parent, std::vector<int> members)
    : rank_{rank},
      size_{size},
      parent_{parent},
      members_{std::move(members)},
      channel_{std::move(channel)},
      reports_{rank, size} {}

std::vector<std::string> ChannelControlPlane::all_gather(std::string_view mine, Timeout timeout) {
  THINWIRE_EXPECTS(mine.size() <= max_message, InvalidArgument,
                   fmt::format("rank {}: control all_gather of {} bytes; at most {} are allowed",
                               rank_, mine.size(), max_message));
  const auto context = fmt::format("rank {}: control all_gather", rank_);
  if (const auto notice = abort_notice()) throw aborted_error(context, *notice);

  std::uint64_t number = 0;
  {
    const std::scoped_lock lock{mutex_};
    number = next_round_++;
    round(number)[static_cast<std::size_t>(rank_)] = mine;
    broadcast(make_letter(Kind::gather, number, mine));
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto deadline = deadline_after(timeout);
  for (Backoff backoff;; backoff.pause()) {
    const auto notice = abort_notice();  // reads the letters
    const auto late = missing(number);
    if (late.empty()) break;
    if (notice) throw aborted_error(context, *notice);
    report_wait(begin, [&] { return WaitReport{"control all_gather", late}; });
    if (std::chrono::steady_clock::now() < deadline) continue;
    const auto error = timeout_error(context, begin, blame(late));
    post_abort({error.peer, error.what()});
    throw error;
  }
  end_wait();
  const std::scoped_lock lock{mutex_};
  std::vector<std::string> texts;
  for (auto& text : round(number)) texts.push_back(std::move(*text));
  rounds_.erase(number);
  return texts;
}

void ChannelControlPlane::post_abort(const AbortNotice& notice) noexcept {
  try {
    const std::scoped_lock lock{mutex_};
    if (notice_) return;
    end(notice, rank_);
    broadcast(make_abort_letter(*notice_));
    if (parent_ == nullptr || !tied_) return;
    const int culprit = notice_->culprit;
    parent_->post_abort(
        {culprit < 0 ? -1 : members_[static_cast<std::size_t>(culprit)], notice_->reason});
  } catch (const std::exception& error) {  // peers then find out by their own time-outs
    log(LogLevel::error, fmt::format("the abort notice could not be sent: {}", error.what()));
  }
}

std::optional<AbortNotice> ChannelControlPlane::abort_notice() {
  {
    const std::scoped_lock lock{mutex_};
    read_letters();
    if (notice_) return notice_;
  }
  return notice_of_parent();
}

std::optional<int> ChannelControlPlane::lost_rank() {
  {
    const std::scoped_lock lock{mutex_};
    if (notice_) return notice_->culprit == teller_ ? -1 : notice_->culprit;
  }
  const auto of_parent = parent_ == nullptr ? std::nullopt : parent_->lost_rank();
  if (!of_parent) return std::nullopt;
  return place_of_member(*of_parent);
}

std::optional<AbortNotice> ChannelControlPlane::notice_of_parent() {
  if (parent_ == nullptr) return std::nullopt;
  auto notice = parent_->abort_notice();
  if (!notice) return std::nullopt;
  notice->reason +=
      fmt::format(" (in the parent communicator, where the culprit is rank {})", notice->culprit);
  notice->culprit = place_of_member(notice->culprit);
  return notice;
}

void ChannelControlPlane::report_wait(std::chrono::steady_clock::time_point begin,
                                      const std::function<WaitReport()>& describe) {
  const auto now = std::chrono::steady_clock::now();
  const auto beat = beat_of(size_);
  if (now - begin < beat) return;
  const auto report = [&]() -> std::optional<WaitReport> {
    const std::scoped_lock lock{mutex_};
    if (notice_ || (last_report_ && now - *last_report_ < beat)) return std::nullopt;
    last_report_ = now;
    auto told = describe();
    const auto valid = static_cast<std::uint64_t>((3 * beat).count());
    broadcast(make_letter(Kind::wait, valid, encode(told)));
    return told;
  }();
  if (report && parent_ != nullptr) {
    parent_->report_wait(begin, [&] { return in_parent(*report); });
  }
}

void ChannelControlPlane::end_wait() {
  {
    const std::scoped_lock lock{mutex_};
    if (!last_report_) return;
    last_report_.reset();
    if (!notice_) broadcast(make_letter(Kind::go_on, 0, {}));
  }
  if (parent_ != nullptr) parent_->end_wait();
}

WaitReport ChannelControlPlane::in_parent(WaitReport report) const {
  for (int& peer : report.peers) peer = members_[static_cast<std::size_t>(peer)];
  report.operation += " (in a split of this communicator)";
  return report;
}

Blame ChannelControlPlane::blame(const std::vector<int>& late) {
  if (auto blame = blame_of_parent(late)) return *blame;
  const std::scoped_lock lock{mutex_};
  read_letters();
  return reports_.blame(late);
}

// A rank that waits in another split is heard of in the parent alone.
std::optional<Blame> ChannelControlPlane::blame_of_parent(std::vector<int> late) {
  if (parent_ == nullptr) return std::nullopt;
  for (int& rank : late) rank = members_[static_cast<std::size_t>(rank)];
  Blame blame = parent_->blame(late);
  const auto culprit = place_of_member(blame.culprit);
  if (culprit < 0) return std::nullopt;  // the wait ends at a rank that is no member
  if (culprit != blame.culprit) blame.text += " (ranks of the parent communicator)";
  blame.culprit = culprit;
  return blame;
}

int ChannelControlPlane::place_of_member(int rank_of_parent) const {
  const auto member = std::find(members_.begin(), members_.end(), rank_of_parent);
  return member == members_.end() ? -1 : static_cast<int>(member - members_.begin());
}

void ChannelControlPlane::read_letters() {
  while (const auto letter = channel_->receive()) take_letter(*letter);
}

void ChannelControlPlane::take_letter(const ControlChannel::Letter& letter) {
  std::uint64_t number = 0;
  if (letter.text.size() < head_bytes) {
    throw FormatError{
        fmt::format("rank {}: control letter of {} bytes from rank {}; do all ranks "
                    "run the same version of thinwire?",
                    rank_, letter.text.size(), letter.from)};
  }
  std::memcpy(&number, letter.text.data() + 1, sizeof number);
  const auto text = std::string_view{letter.text}.substr(head_bytes);
  switch (static_cast<Kind>(letter.text[0])) {
    case Kind::gather:
      if (number > next_round_) break;  // no rank ends a round without us
      round(number)[static_cast<std::size_t>(letter.from)] = text;
      return;
    case Kind::abort:
      if (!notice_) end({static_cast<int>(number), std::string{text}}, letter.from);
      return;
    case Kind::wait:
      reports_.take(letter.from, decode_wait_report(text, size_),
                    std::chrono::milliseconds{std::min(number, std::uint64_t{60'000})});
      return;
    case Kind::go_on:
      reports_.forget(letter.from);
      return;
  }
  throw FormatError{
      fmt::format("rank {}: unexpected control letter (kind {}, number {}) from rank {}", rank_,
                  static_cast<int>(letter.text[0]), number, letter.from)};
}

void ChannelControlPlane::end(const AbortNotice& notice, int teller) {
  notice_ = notice;
  teller_ = teller;
  if (notice.culprit >= size_) notice_->culprit = -1;  // of another communicator
  channel_->ended();
}

ChannelControlPlane::Round& ChannelControlPlane::round(std::uint64_t number) {
  auto& texts = rounds_[number];
  texts.resize(static_cast<std::size_t>(size_));
  return texts;
}

std::vector<int> ChannelControlPlane::missing(std::uint64_t number) {
  const std::scoped_lock lock{mutex_};
  std::vector<int> ranks;
  const auto& texts = round(number);
  for (int i = 0; i < size_; ++i) {
    if (!texts[static_cast<std::size_t>(i)]) ranks.push_back(i);
  }
  return ranks;
}

void ChannelControlPlane::broadcast(std::string_view text) {
  for (int i = 0; i < size_; ++i) {
    if (i != rank_) channel_->send(i, text);
  }
}

}  // namespace thinwire::comm
