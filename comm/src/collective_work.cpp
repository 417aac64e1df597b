#include "collective_work.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backoff.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// The control plane costs more to look at than the requests.
constexpr unsigned tests_per_look = 8;

constexpr int no_peer = -1;

}  // namespace

CollectiveWork::CollectiveWork(WorkContext& context, Recipe recipe)
    : context_{context},
      recipe_{std::move(recipe)},
      exceptions_at_start_{std::uncaught_exceptions()} {
  context_.unfinished.push_back(this);
  try {
    look_for_abort();
    if (!recipe_.steps.empty() && my_turn()) post_step();
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
  if (state_ == State::under_way) progress_all();
  if (state_ == State::failed) std::rethrow_exception(failure_);
  return state_ == State::done;
}

void CollectiveWork::wait(Timeout timeout) {
  const auto deadline = deadline_after(timeout);
  for (Backoff backoff; !test(); backoff.pause()) {
    if (std::chrono::steady_clock::now() < deadline) continue;
    fail(std::make_exception_ptr(
        timeout_error(name(), begin_, context_.control.blame(late_peers()))));
  }
}

void CollectiveWork::progress_all() {
  auto& unfinished = context_.unfinished;
  for (auto* work : unfinished) work->progress();
  std::erase_if(unfinished, [](const auto* work) { return work->state_ != State::under_way; });
  if (unfinished.empty()) {
    context_.control.end_wait();
  } else if (tests_ % tests_per_look == 0) {
    const auto& first = *unfinished.front();
    context_.control.report_wait(first.begin_, [&] {
      return WaitReport{first.recipe_.name, first.late_peers()};
    });
  }
}

void CollectiveWork::progress() noexcept {
  if (state_ != State::under_way) return;
  try {
    advance();
    if (state_ == State::under_way && ++tests_ % tests_per_look == 0) look_for_abort();
  } catch (...) {
    fail(std::current_exception());
  }
}

void CollectiveWork::advance() {
  while (step_ < recipe_.steps.size()) {
    if (!posted_) {
      if (!my_turn()) return;
      post_step();
    }
    std::erase_if(pending_, [this](Pending& pending) { return test_request(pending); });
    if (!pending_.empty()) return;
    if (const auto& finish = recipe_.steps[step_].finish) finish();
    ++step_;
    posted_ = false;
  }
  state_ = State::done;
}

/// Exchanges among all match by their order, so there a step waits until the works before it have
/// posted all of theirs.
bool CollectiveWork::my_turn() const {
  if (!context_.transport.exchanges_steps()) return true;
  const auto& works = context_.unfinished;
  const auto me = std::find(works.begin(), works.end(), this);
  return std::all_of(works.begin(), me, [](const CollectiveWork* work) {
    return work->state_ != State::under_way ||
           (work->posted_ && work->step_ + 1 == work->recipe_.steps.size());
  });
}

void CollectiveWork::post_step() {
  posted_ = true;
  const auto& step = recipe_.steps[step_];
  if (context_.transport.exchanges_steps()) {
    if (step.transfers.empty()) return;
    auto all_arrived = [&step] {
      for (const auto& t : step.transfers) {
        if (t.arrived) t.arrived();
      }
    };
    pending_.push_back({context_.transport.iexchange(step.transfers),
                        Transfer{Transfer::Way::receive, no_peer, nullptr, 0, all_arrived}});
    return;
  }
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

std::vector<int> CollectiveWork::late_peers() const {
  // Whom a receive waits for is late; a send only tells that when no receive is open.
  std::vector<int> late;
  for (const auto way : {Transfer::Way::receive, Transfer::Way::send}) {
    for (const auto& [request, transfer] : pending_) {
      if (transfer.way == way && transfer.peer != no_peer) late.push_back(transfer.peer);
    }
    if (!late.empty()) break;
  }
  if (late.empty()) {  // the transport's own operation: anyone
    for (int r = 0; r < context_.transport.size(); ++r) {
      if (r != context_.transport.rank()) late.push_back(r);
    }
  }
  std::sort(late.begin(), late.end());
  late.erase(std::unique(late.begin(), late.end()), late.end());
  return late;
}

void CollectiveWork::fail(std::exception_ptr error) noexcept {
  state_ = State::failed;
  failure_ = error;
  AbortNotice notice{context_.transport.rank(), "unknown error"};
  try {
    std::rethrow_exception(error);
  } catch (const AbortedError& e) {
    notice = {e.peer, e.what()};  // -1: a rank that is not of this communicator
  } catch (const TransportError& e) {
    notice = {e.peer < 0 ? context_.transport.rank() : e.peer, e.what()};
  } catch (const std::exception& e) {
    notice.reason = e.what();
  } catch (...) {
  }
  // Before this rank tells it on: who told it first says whether the culprit knows.
  const auto heard = context_.control.lost_rank();
  context_.control.post_abort(notice);
  const int lost = heard ? *heard : context_.control.lost_rank().value_or(-1);
  for (const auto& pending : pending_) {
    if (lost >= 0 && pending.transfer.peer == lost) pending.request->lose_peer();
  }
  pending_.clear();
}

std::string CollectiveWork::name() const {
  return fmt::format("rank {}: {}", context_.transport.rank(), recipe_.name);
}

}  // namespace thinwire::comm
