#include "step_queue.hpp"

#include <algorithm>

namespace thinwire::comm {

void StepQueue::order(CudaEvent& event, StreamView from, StreamView to) {
  if (from.handle() == to.handle()) return;
  event.record(from);
  event.wait(to);
}

void StepQueue::expect(int chunks) {
  chunks_.resize(std::max(chunks_.size(), static_cast<std::size_t>(chunks)));
}

void StepQueue::clear() {
  step_.clear();
  enqueued_ = 0;
  held_bytes_ = 0;
}

bool StepQueue::has(const CudaExchange& bucket) const {
  return std::any_of(step_.begin(), step_.end(),
                     [&](const Entry& entry) { return entry.bucket == &bucket; });
}

bool StepQueue::holds(const CudaExchange& bucket) const {
  return std::any_of(step_.begin() + static_cast<std::ptrdiff_t>(enqueued_), step_.end(),
                     [&](const Entry& entry) { return entry.bucket == &bucket; });
}

/// Calls body(bucket) for the held buckets that have this chunk.
template <typename Body>
void StepQueue::for_held(int chunk, Body body) {
  for (std::size_t i = enqueued_; i < step_.size(); ++i) {
    if (chunk < step_[i].bucket->chunks()) body(*step_[i].bucket);
  }
}

/// The exchanges of one chunk of the held buckets as one group.
template <typename Body>
void StepQueue::exchange(const char* verb, int chunk, StreamView stream, Body body) {
  const Calls calls = held() == 1 && held_are_plain() ? Calls::one : Calls::several;
  wire_.exchange({verb, held_bytes_}, stream, calls, [&](DeviceWire::Group& group) {
    for_held(chunk, [&](CudaExchange& bucket) { body(bucket, group); });
  });
}

void StepQueue::enqueue_first(int chunk, const Streams& on) {
  ChunkEvents& events = chunks_[static_cast<std::size_t>(chunk)];
  for_held(chunk, [&](CudaExchange& bucket) { bucket.encode(chunk, on.encode); });
  order(events.encoded, on.encode, on.wire);
  exchange("first exchange", chunk, on.wire,
           [chunk](CudaExchange& bucket, DeviceWire::Group& to) { bucket.first(chunk, to); });
  order(events.exchanged, on.wire, on.decode);
  for_held(chunk, [&](CudaExchange& bucket) { bucket.combine(chunk, on.decode); });
}

void StepQueue::enqueue_second(int chunk, const Streams& on) {
  bool needed = false;
  for_held(chunk, [&](CudaExchange& bucket) { needed = needed || bucket.has_second(); });
  if (!needed) return;
  ChunkEvents& events = chunks_[static_cast<std::size_t>(chunk)];
  order(events.combined, on.decode, on.wire);
  exchange("second exchange", chunk, on.wire,
           [chunk](CudaExchange& bucket, DeviceWire::Group& to) { bucket.second(chunk, to); });
  order(events.gathered, on.wire, on.decode);
  for_held(chunk, [&](CudaExchange& bucket) { bucket.decode(chunk, on.decode); });
}

/// The first exchange of a chunk stands before the second one of the chunk before it, so that the
/// wire has work while the owner codes.
void StepQueue::enqueue_held(const Streams& on) {
  int count = 0;
  const CudaExchange* former = nullptr;
  for (std::size_t i = enqueued_; i < step_.size(); ++i) {
    CudaExchange& bucket = *step_[i].bucket;
    count = std::max(count, bucket.chunks());
    if (former == nullptr || former->caller().handle() != bucket.caller().handle()) {
      order(bucket.ready, bucket.caller(), on.encode);
    }
    former = &bucket;
  }
  for (int chunk = 0; chunk < count; ++chunk) {
    enqueue_first(chunk, on);
    if (chunk > 0) enqueue_second(chunk - 1, on);
  }
  enqueue_second(count - 1, on);
}

bool StepQueue::held_are_plain() const {
  return std::all_of(step_.begin() + static_cast<std::ptrdiff_t>(enqueued_), step_.end(),
                     [](const Entry& entry) { return entry.bucket->state() == nullptr; });
}

void StepQueue::let_go(StreamView stream, const CudaEvent* done) {
  for (; enqueued_ < step_.size(); ++enqueued_) {
    step_[enqueued_].stream = stream;
    step_[enqueued_].done = done;
  }
  held_bytes_ = 0;
}

void StepQueue::hold(CudaExchange& bucket, bool last) {
  step_.push_back({&bucket});
  held_bytes_ += bucket.first_bytes();
  if (held_bytes_ >= coalesce_bytes_ && !last) flush();
}

void StepQueue::flush() {
  if (held() == 0) return;
  // Where nothing is coded, the way leads over the wire alone.
  const Streams on = held_are_plain() ? Streams{lane, lane, lane} : Streams{encoder, lane, decoder};
  enqueue_held(on);
  CudaEvent& done = step_.back().bucket->done;
  done.record(on.decode);
  let_go(on.decode, &done);
}

void StepQueue::flush_for(StreamView stream, bool lend) {
  for (std::size_t i = enqueued_; lend && i < step_.size(); ++i) {
    const CudaExchange& bucket = *step_[i].bucket;
    lend = bucket.caller().handle() == stream.handle() && !bucket.scaled();
  }
  if (!lend) return flush();
  if (held() == 0) return;
  for (std::size_t i = 0; i < enqueued_; ++i) join(step_[i], stream);  // they were first
  enqueue_held({stream, stream, stream});
  let_go(stream, nullptr);
}

void StepQueue::join(const Entry& entry, StreamView stream) {
  if (entry.done != nullptr) {
    entry.done->wait(stream);
  } else {
    order(entry.bucket->done, entry.stream, stream);
  }
}

void StepQueue::join(CudaExchange& bucket, StreamView stream) {
  for (std::size_t i = 0; i < enqueued_; ++i) {
    if (step_[i].bucket == &bucket) join(step_[i], stream);
  }
}

void StepQueue::join_plain(StreamView stream) {
  for (std::size_t i = 0; i < enqueued_; ++i) {
    if (step_[i].bucket->state() == nullptr) join(step_[i], stream);
  }
}

}  // namespace thinwire::comm
