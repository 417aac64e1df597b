#pragma once

#include <cstddef>
#include <vector>

#include "cuda_exchange.hpp"
#include "device_wire.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::comm {

/// The buckets of one step on their way over an engine's streams: held back until they are worth
/// a group of exchanges, then enqueued stage by stage. Only enqueues; one thread at a time.
class StepQueue {
 public:
  StepQueue(DeviceWire& wire, std::size_t coalesce_bytes)
      : wire_{wire}, coalesce_bytes_{coalesce_bytes} {}

  /// Encodes; exchanges; owners' steps and decodes, which wait for the wire while encodes do not.
  const CudaStream encoder, lane, decoder;

  /// Makes room for buckets of so many chunks.
  void expect(int chunks);

  /// A bucket whose call has begun leaves now, or is held back for those that come. `last`: none
  /// comes in this step and nothing in the engine is coded; whoever waits lends its own stream
  /// then, and nothing stands between the caller and the transport.
  void hold(CudaExchange& bucket, bool last);

  /// Sends the held buckets on their way together.
  void flush();

  /// The same for `stream`, which waits for them: with `lend` they take no other where they need
  /// none.
  void flush_for(StreamView stream, bool lend);

  /// `stream` waits for a bucket that is on its way.
  void join(CudaExchange& bucket, StreamView stream);
  /// `stream` waits for the buckets of this step that did not pass through the coder.
  void join_plain(StreamView stream);

  bool holds(const CudaExchange& bucket) const;  ///< back, in this step
  bool has(const CudaExchange& bucket) const;    ///< in this step
  std::size_t size() const { return step_.size(); }

  /// The step is over; nothing is held any more.
  void clear();

  /// What `to` gets from now on comes after what `from` holds.
  static void order(CudaEvent& event, StreamView from, StreamView to);

 private:
  /// Where the stages of a group of buckets are enqueued.
  struct Streams {
    StreamView encode, wire, decode;
  };
  /// Events of one chunk's way through the streams, for all buckets that travel together.
  struct ChunkEvents {
    CudaEvent encoded, exchanged, combined, gathered;
  };
  /// A bucket of this step. Its means are complete after what `stream` holds, or already at an
  /// event there.
  struct Entry {
    CudaExchange* bucket;
    StreamView stream{};
    const CudaEvent* done = nullptr;
  };

  template <typename Body>
  void for_held(int chunk, Body body);
  template <typename Body>
  void exchange(const char* verb, int chunk, StreamView stream, Body body);
  void enqueue_first(int chunk, const Streams& on);
  void enqueue_second(int chunk, const Streams& on);
  void enqueue_held(const Streams& on);
  bool held_are_plain() const;
  void let_go(StreamView stream, const CudaEvent* done);
  std::size_t held() const { return step_.size() - enqueued_; }
  void join(const Entry& entry, StreamView stream);

  DeviceWire& wire_;
  std::size_t coalesce_bytes_;
  std::vector<ChunkEvents> chunks_;
  std::vector<Entry> step_;   // in the order of submission; the held ones stand last
  std::size_t enqueued_ = 0;  // of step_
  std::size_t held_bytes_ = 0;
};

}  // namespace thinwire::comm
