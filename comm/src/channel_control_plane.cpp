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

// A letter: kind (1 byte), number (8 bytes: the round, or the culprit), text.
enum class Kind : char { gather = 'g', abort = 'a' };
constexpr std::size_t head_bytes = 9;

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

ChannelControlPlane::ChannelControlPlane(int rank, int size,
                                         std::unique_ptr<ControlChannel> channel,
                                         ControlPlane* parent, std::vector<int> members)
    : rank_{rank},
      size_{size},
      parent_{parent},
      members_{std::move(members)},
      channel_{std::move(channel)} {}

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
  const auto deadline = deadline_after(timeout);
  for (Backoff backoff;; backoff.pause()) {
    const auto notice = abort_notice();  // reads the letters
    const auto late = missing(number);
    if (late.empty()) break;
    if (notice) throw aborted_error(context, *notice);
    if (std::chrono::steady_clock::now() >= deadline) {
      const auto reason = fmt::format(
          "{} timed out after {} ms waiting for rank {}; is it alive, and does it make the same "
          "calls? If it is only slow, raise THINWIRE_TIMEOUT",
          context, timeout.count(), fmt::join(late, ", "));
      post_abort({late.front(), reason});
      throw TimeoutError{reason, late.front()};
    }
  }
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
    end(notice);
    broadcast(make_abort_letter(notice));
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

std::optional<AbortNotice> ChannelControlPlane::notice_of_parent() {
  if (parent_ == nullptr) return std::nullopt;
  auto notice = parent_->abort_notice();
  if (!notice) return std::nullopt;
  const auto member = std::find(members_.begin(), members_.end(), notice->culprit);
  notice->reason +=
      fmt::format(" (in the parent communicator, where the culprit is rank {})", notice->culprit);
  notice->culprit = member == members_.end() ? -1 : static_cast<int>(member - members_.begin());
  return notice;
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
      if (!notice_) end({static_cast<int>(number), std::string{text}});
      return;
  }
  throw FormatError{
      fmt::format("rank {}: unexpected control letter (kind {}, number {}) from rank {}", rank_,
                  static_cast<int>(letter.text[0]), number, letter.from)};
}

void ChannelControlPlane::end(const AbortNotice& notice) {
  notice_ = notice;
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
