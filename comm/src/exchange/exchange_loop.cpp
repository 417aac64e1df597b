#include "exchange_loop.hpp"

#include <fmt/format.h>

#include <thread>
#include <utility>

#include "../backoff.hpp"
#include "../stopwatch.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// Throws the error that is being handled again, if it is about peers: with where it struck.
[[noreturn]] void rethrow_with_place(std::size_t bucket, int chunk) {
  const auto text = [&](const std::exception& error) {
    return fmt::format("bucket {}, chunk {}: {}", bucket, chunk, error.what());
  };
  try {
    throw;
  } catch (const TimeoutError& error) {
    throw TimeoutError{text(error), error.peer};
  } catch (const AbortedError& error) {
    throw AbortedError{text(error), error.peer};
  } catch (const TransportError& error) {
    throw TransportError{text(error), error.peer};
  } catch (const FormatError& error) {
    throw FormatError{text(error), error.peer};
  }
}

}  // namespace

using Clock = std::chrono::steady_clock;

void ExchangeLoop::push(BucketExchange& bucket, std::size_t tag) {
  const int chunks = bucket.plan().chunks();
  for (int chunk = 0; chunk < chunks; ++chunk) {
    tasks_.push_back({&bucket, chunk, tag, chunk + 1 == chunks, Stage::encode, nullptr});
  }
}

void ExchangeLoop::post(Task& task, WorkHandle work, Stage waiting, Stage ready) {
  task.work = std::move(work);
  task.stage = task.work ? waiting : ready;
  task.posted = Clock::now();
  task.deadline = deadline_after(timeout_);
}

void ExchangeLoop::poll(Task& task) {
  if (!task.work) return;
  if (!task.work->test()) {
    if (Clock::now() > task.deadline) task.work->wait(Timeout{0});  // names the peer and aborts
    return;
  }
  task.work.reset();
  const bool is_first = task.stage == Stage::reducing;
  note(task, is_first ? "first exchange" : "second exchange", task.posted);
  task.stage = is_first ? Stage::combine : Stage::decode;
}

void ExchangeLoop::advance(Task& task) {
  const auto begin = Clock::now();
  switch (task.stage) {
    case Stage::encode:
      post(task, task.bucket->encode(task.chunk), Stage::reducing, Stage::combine);
      note(task, "encode", begin);
      break;
    case Stage::combine:
      post(task, task.bucket->combine(task.chunk), Stage::gathering, Stage::decode);
      note(task, "combine", begin);
      break;
    default:
      task.bucket->decode(task.chunk);
      task.stage = Stage::done;
      note(task, "decode", begin);
      break;
  }
}

/// The wire is what is scarce: first what feeds it, and the second exchange before the first, since
/// it completes a bucket. Combines and encodes keep the order of push.
ExchangeLoop::Task* ExchangeLoop::choose() {
  Task* encode = nullptr;
  Task* decode = nullptr;
  bool earlier_uncombined = false;
  for (Task& task : tasks_) {
    if (task.stage == Stage::combine && !earlier_uncombined) return &task;
    earlier_uncombined = earlier_uncombined || task.stage < Stage::gathering;
    if (task.stage == Stage::encode && !encode) encode = &task;
    if (task.stage == Stage::decode && !decode) decode = &task;
  }
  return encode ? encode : decode;
}

bool ExchangeLoop::pop_completed(std::size_t& finished) {
  while (!tasks_.empty() && tasks_.front().stage == Stage::done) {
    finished = tasks_.front().tag;
    const bool last = tasks_.front().last;
    tasks_.pop_front();
    if (last) return true;
  }
  return false;
}

void ExchangeLoop::rest(CallMetrics& metrics) {
  const Stopwatch watch{metrics.exchange_ms};
  // Yield first: on a machine with more ranks than cores a peer may need this core to answer.
  if (++idle_rounds_ < 1000) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds{50});
  }
}

void ExchangeLoop::note(const Task& task, std::string_view name, Clock::time_point begin) {
  if (trace_ != nullptr) trace_->add(task.tag, task.chunk, name, begin);
}

bool ExchangeLoop::step(std::size_t& finished) {
  const auto with_place = [](Task& task, auto&& body) {
    try {
      body();
    } catch (...) {
      rethrow_with_place(task.tag, task.chunk);
    }
  };
  for (Task& task : tasks_) with_place(task, [&] { poll(task); });
  if (Task* task = choose()) {
    idle_rounds_ = 0;
    with_place(*task, [&] { advance(*task); });
  } else if (tasks_.front().stage != Stage::done) {
    rest(tasks_.front().bucket->metrics());
  }
  return pop_completed(finished);
}

}  // namespace thinwire::comm
