#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "device_wire.hpp"
#include "staged_transfer.hpp"
#include "stream_words.hpp"
#include "thinwire/comm/staged.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace thinwire::comm {

/// The communicator of staged.hpp.
///
/// A call enqueues all its GPU work at once: a chunk comes to pinned memory, a word says so,
/// the stream waits for another word, the results go back. The thread waits for the first word,
/// exchanges the chunk and writes the second; it enqueues nothing, because what it enqueued could
/// end up behind a waiting stream in the same hardware queue. Calls are chained by events.
class StagedCommunicator final : public Communicator, public DeviceWire {
 public:
  StagedCommunicator(Communicator& host, const StagedOptions& options);
  StagedCommunicator(std::unique_ptr<Communicator> host, const StagedOptions& options);
  ~StagedCommunicator() override;

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  int local_rank() const override { return host_.local_rank(); }
  int local_size() const override { return host_.local_size(); }
  std::string_view transport() const override { return host_.transport(); }
  Device device() const override { return Device::cuda; }

  WorkHandle allreduce(ConstTensorView in, TensorView out, ReduceOp op, StreamView stream) override;
  WorkHandle allreduce_max(std::span<std::uint64_t> words, StreamView stream) override;
  WorkHandle reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                            StreamView stream) override;
  WorkHandle all_gather(ConstByteView in, ByteView out, StreamView stream) override;
  WorkHandle all_to_all(ConstByteView in, ByteView out, StreamView stream) override;
  WorkHandle all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                          std::span<const std::size_t> in_offsets, ByteView out,
                          std::span<const std::size_t> out_bytes,
                          std::span<const std::size_t> out_offsets, StreamView stream) override;
  WorkHandle broadcast(ByteView data, int root, StreamView stream) override;
  WorkHandle send(ConstByteView data, int to, StreamView stream) override;
  WorkHandle recv(ByteView data, int from, StreamView stream) override;
  WorkHandle barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;

  ControlPlane& control() override { return host_.control(); }
  void abort(std::string_view reason, int culprit) noexcept override;

  void exchange(OperationName name, StreamView stream, Calls calls, const Body& body) override;
  void wait_for(OperationName name, StreamView stream, Timeout timeout) override;
  void throw_failure() override;

  /// The caller's side of a call.
  struct Job {
    OperationName name;
    CudaEvent done;
  };
  using JobHandle = std::shared_ptr<Job>;

  bool done(const Job& job);
  void wait(const Job& job, Timeout timeout);

 private:
  /// The thread's side of it. It makes no CUDA calls, not even to destroy something: a caller that
  /// the driver keeps waiting may hold the locks that they take.
  struct Order {
    std::vector<StagedTransfer> transfers;
    std::uint32_t first_chunk = 0;  ///< chunks are numbered through, modulo 2^32
  };

  struct Slot {
    Buffer in, out;  // pinned
  };

  std::size_t width_of(const StagedTransfer& transfer) const;
  std::size_t chunks_of(const StagedTransfer& transfer) const;
  Slot& slot(std::uint32_t chunk) { return slots_[chunk % slots_.size()]; }

  JobHandle enqueue(OperationName name, StreamView stream, std::vector<StagedTransfer> transfers);
  void enqueue_transfer(const StagedTransfer& transfer, std::uint32_t first, StreamView stream);
  void enqueue_fetch(const StagedTransfer& transfer, std::size_t chunk, std::uint32_t number,
                     StreamView stream);
  void enqueue_delivery(const StagedTransfer& transfer, std::size_t chunk, std::uint32_t number,
                        StreamView stream);
  WorkHandle run(OperationName name, StreamView stream, StagedTransfer transfer);
  void work() noexcept;
  void carry(const Order& order);
  void fail(std::exception_ptr error) noexcept;
  [[noreturn]] void raise_timeout(OperationName name, Timeout timeout);

  std::uint32_t* fetched() const { return progress_.as<std::uint32_t>(); }
  std::uint32_t* exchanged() const { return progress_.as<std::uint32_t>() + 16; }

  Communicator& host_;
  std::unique_ptr<Communicator> owned_;  // host_, where this is a child
  StagedOptions options_;
  std::unique_ptr<Communicator> lane_;  // of the thread
  StreamWords words_;
  std::array<Slot, 3> slots_;
  Buffer progress_;  // mapped: numbers of the last chunk fetched, and of the last one exchanged
  CudaStream own_;   // of barriers

  JobHandle last_;  // of all calls; the caller's

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<std::shared_ptr<const Order>> orders_;
  std::exception_ptr failure_;
  std::uint32_t issued_ = 0;  // chunks
  bool stopping_ = false;
  std::atomic<bool> failed_{false};

  std::thread thread_;  // last: it uses everything above
};

}  // namespace thinwire::comm
