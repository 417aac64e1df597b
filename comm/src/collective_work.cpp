#include "collective_work.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "backoff.hpp"
#include "channel_control_plane.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// A look at the control plane costs more than a look at the requests.
constexpr unsigned tests_per_abort_look = 8;

constexpr int no_peer = -1;

}  // namespace

CollectiveWork::CollectiveWork(WorkContext& context, Recipe recipe)
    : context_{context},
      recipe_{std::move(recipe)},
      exceptions_at_start_{std::uncaught_exceptions()} {
  context_.unfinished.push_back(this);
  try {
    look_for_abort();
    post_step();
  } catch (...) {
    fail(std::current_exception());
  }
}

CollectiveWork::~CollectiveWork() {
  if (state_ == State::under_way) {
    try {
      if (std::uncaught_exceptions() > exceptions_at_start_) {
        throw TransportError{name() + " was given up because of another error on this rank"};
      }
      wait(config().timeout);
    } catch (...) {
      if (state_ == State::under_way) fail(std::current_exception());
    }
  }
  std::erase(context_.unfinished, this);
}

bool CollectiveWork::test() {
  if (state_ == State::under_way) {
    for (auto* work : context_.unfinished) work->progress();
    std::erase_if(context_.unfinished,
                  [](const auto* work) { return work->state_ != State::under_way; });
  }
  if (state_ == State::failed) std::rethrow_exception(failure_);
  return state_ == State::done;
}

void CollectiveWork::wait(Timeout timeout) {
  const auto deadline = deadline_after(timeout);
  for (Backoff backoff; !test(); backoff.pause()) {
    if (std::chrono::steady_clock::now() < deadline) continue;
    fail(std::make_exception_ptr(late_peers(timeout)));
  }
}

void CollectiveWork::progress() noexcept {
  if (state_ != State::under_way) return;
  try {
    advance();
    if (state_ == State::under_way && ++tests_ % tests_per_abort_look == 0) look_for_abort();
  } catch (...) {
    fail(std::current_exception());
  }
}

void CollectiveWork::advance() {
  while (step_ < recipe_.steps.size()) {
    std::erase_if(pending_, [this](Pending& pending) { return test_request(pending); });
    if (!pending_.empty()) return;
    if (const auto& finish = recipe_.steps[step_].finish) finish();
    ++step_;
    post_step();
  }
  state_ = State::done;
}

void CollectiveWork::post_step() {
  if (step_ == recipe_.steps.size()) return;
  const auto& step = recipe_.steps[step_];
  // Receives first: a message that finds its receive posted needs no copy on the way.
  for (const auto& t : step.transfers) {
    if (t.way != Transfer::Way::receive) continue;
    pending_.push_back({context_.transport.irecv({t.data, t.bytes}, t.peer, recipe_.tag), t});
  }
  for (const auto& t : step.transfers) {
    if (t.way != Transfer::Way::send) continue;
    pending_.push_back({context_.transport.isend({t.data, t.bytes}, t.peer, recipe_.tag), t});
  }
  if (step.native) {
    pending_.push_back({step.native(), Transfer{Transfer::Way::receive, no_peer, nullptr, 0}});
  }
}

bool CollectiveWork::test_request(Pending& pending) {
  try {
    if (!pending.request->test()) return false;
    if (pending.transfer.arrived) pending.transfer.arrived();
    return true;
  } catch (const UnexpectedSize& size) {
    throw MismatchError{name(),
                        fmt::format("the size of the message from rank {} to rank {}",
                                    pending.transfer.peer, context_.transport.rank()),
                        fmt::format("{} bytes", pending.transfer.bytes),
                        fmt::format("{} bytes", size.arrived), pending.transfer.peer};
  }
}

void CollectiveWork::look_for_abort() {
  if (const auto notice = context_.control.abort_notice()) throw aborted_error(name(), *notice);
}

TimeoutError CollectiveWork::late_peers(Timeout timeout) const {
  // Whom a receive waits for is late; a send only tells that when no receive is open.
  std::vector<int> late;
  for (const auto way : {Transfer::Way::receive, Transfer::Way::send}) {
    for (const auto& [request, transfer] : pending_) {
      if (transfer.way == way && transfer.peer != no_peer) late.push_back(transfer.peer);
    }
    if (!late.empty()) break;
  }
  std::sort(late.begin(), late.end());
  const auto whom =
      late.empty() ? std::string{"its peers"} : fmt::format("rank {}", fmt::join(late, ", "));
  return TimeoutError{
      fmt::format("{} timed out after {} ms waiting for {}; is it alive, and does it make the same "
                  "calls? If it is only slow, raise THINWIRE_TIMEOUT",
                  name(), timeout.count(), whom),
      late.empty() ? no_peer : late.front()};
}

void CollectiveWork::fail(std::exception_ptr error) noexcept {
  state_ = State::failed;
  failure_ = error;
  AbortNotice notice{context_.transport.rank(), "unknown error"};
  try {
    std::rethrow_exception(error);
  } catch (const TransportError& e) {
    notice = {e.peer < 0 ? context_.transport.rank() : e.peer, e.what()};
  } catch (const std::exception& e) {
    notice.reason = e.what();
  } catch (...) {
  }
  context_.control.post_abort(notice);
  pending_.clear();
}

std::string CollectiveWork::name() const {
  return fmt::format("rank {}: {}", context_.transport.rank(), recipe_.name);
}

}  // namespace thinwire::comm
