#include "exchange_loop.hpp"

#include <thread>
#include <utility>

#include "../stopwatch.hpp"

namespace thinwire::comm {

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
}

void ExchangeLoop::poll(Task& task) {
  if (!task.work) return;
  if (!task.work->test()) {
    if (Clock::now() > task.posted + timeout_)
      task.work->wait(Timeout{0});  // names the peer and aborts
    return;
  }
  task.work.reset();
  const bool is_first = task.stage == Stage::reducing;
  note(task, is_first ? "first exchange" : "second exchange", task.posted);
  task.stage = is_first ? Stage::combine : Stage::decode;
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
  for (Task& task : tasks_) poll(task);
  if (Task* task = choose()) {
    idle_rounds_ = 0;
    const auto begin = Clock::now();
    switch (task->stage) {
      case Stage::encode:
        post(*task, task->bucket->encode(task->chunk), Stage::reducing, Stage::combine);
        note(*task, "encode", begin);
        break;
      case Stage::combine:
        post(*task, task->bucket->combine(task->chunk), Stage::gathering, Stage::decode);
        note(*task, "combine", begin);
        break;
      default:
        task->bucket->decode(task->chunk);
        task->stage = Stage::done;
        note(*task, "decode", begin);
        break;
    }
  } else if (tasks_.front().stage != Stage::done) {
    rest(tasks_.front().bucket->metrics());
  }
  return pop_completed(finished);
}

}  // namespace thinwire::comm
