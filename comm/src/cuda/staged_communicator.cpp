#include "staged_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "../backoff.hpp"
#include "../channel_control_plane.hpp"
#include "../failure.hpp"
#include "cuda/try.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// Chunks are multiples of it: whole elements of every dtype.
constexpr std::size_t width_unit = 64;

class StagedWork final : public Work {
 public:
  StagedWork(StagedCommunicator& communicator, StagedCommunicator::JobHandle job)
      : communicator_{communicator}, job_{std::move(job)} {}

  bool test() override { return communicator_.done(*job_); }
  void wait(Timeout timeout) override { communicator_.wait(*job_, timeout); }

 private:
  StagedCommunicator& communicator_;
  StagedCommunicator::JobHandle job_;
};

/// Collects what a body asks for.
class StagedGroup final : public DeviceWire::Group {
 public:
  explicit StagedGroup(int ranks) : ranks_{static_cast<std::size_t>(ranks)} {}

  void all_to_all(const std::byte* in, std::byte* out, std::size_t part_bytes) override {
    transfers.push_back(all_to_all_transfer(in, out, part_bytes, ranks_));
  }
  void all_gather(const std::byte* in, std::byte* out, std::size_t part_bytes) override {
    transfers.push_back(all_gather_transfer(in, out, part_bytes, ranks_));
  }
  void allreduce(ConstTensorView in, TensorView out, ReduceOp op) override {
    transfers.push_back(allreduce_transfer(in, out, op));
  }
  void allreduce_max(std::uint64_t* words, std::size_t count) override {
    transfers.push_back(max_transfer(words, count));
  }

  std::vector<StagedTransfer> transfers;

 private:
  std::size_t ranks_;
};

template <typename View>
void expect_device(const char* operation, const View& view, std::size_t bytes) {
  THINWIRE_EXPECTS(view.device == Device::cuda && (view.data != nullptr || bytes == 0),
                   InvalidArgument,
                   fmt::format("staged {}: a buffer of {} bytes is {}", operation, bytes,
                               view.data == nullptr ? "null" : "not on a GPU"));
}

void expect_parts(const char* operation, std::size_t whole, std::size_t part, int ranks) {
  THINWIRE_EXPECTS(whole == part * static_cast<std::size_t>(ranks), InvalidArgument,
                   fmt::format("staged {}: {} bytes for {} ranks with {} bytes each", operation,
                               whole, ranks, part));
}

}  // namespace

StagedCommunicator::StagedCommunicator(Communicator& host, const StagedOptions& options)
    : host_{host},
      options_{options},
      lane_{host.split(0, host.rank())},
      progress_{std::make_shared<PinnedMemory>(), 32 * sizeof(std::uint32_t), "staging"} {
  THINWIRE_EXPECTS(host.device() == Device::host, InvalidArgument,
                   "a staged communicator stands on one of the host (MPI, threads)");
  THINWIRE_EXPECTS(options.chunk_bytes >= width_unit * static_cast<std::size_t>(host.size()),
                   InvalidArgument,
                   fmt::format("staged chunks of {} bytes for {} ranks; at least {} a rank",
                               options.chunk_bytes, host.size(), width_unit));
  if (options_.timeout == Timeout{}) options_.timeout = config().timeout;
  const auto pinned = std::make_shared<PinnedMemory>();
  for (Slot& slot : slots_) {
    slot.in = Buffer{pinned, options.chunk_bytes, "staging"};
    slot.out = Buffer{pinned, options.chunk_bytes, "staging"};
  }
  *fetched() = 0;
  *exchanged() = 0;
  thread_ = std::thread{[this] { work(); }};
}

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> host,
                                       const StagedOptions& options)
    : StagedCommunicator{*host, options} {
  owned_ = std::move(host);
}

StagedCommunicator::~StagedCommunicator() {
  {
    const std::scoped_lock lock{mutex_};
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  if (last_) cudaEventSynchronize(last_->done.handle());  // it reads the slots until then
  lane_.reset();
}

void StagedCommunicator::throw_failure() {
  if (!failed_) return;
  const std::scoped_lock lock{mutex_};
  std::rethrow_exception(failure_);
}

void StagedCommunicator::abort(std::string_view reason, int culprit) noexcept {
  host_.abort(reason, culprit);
  lane_->abort(reason, culprit);  // the thread, if it waits, raises it
  try {
    const AbortNotice notice{culprit < 0 ? rank() : culprit, std::string{reason}};
    fail(std::make_exception_ptr(aborted_error(fmt::format("rank {}", rank()), notice)));
  } catch (...) {  // out of memory for the text
    fail(std::current_exception());
  }
}

void StagedCommunicator::fail(std::exception_ptr error) noexcept {
  const std::scoped_lock lock{mutex_};
  if (failure_) return;
  failure_ = error;
  failed_ = true;
  orders_.clear();
  // Streams that wait go on, with whatever is in the buffers; all later calls throw.
  std::atomic_ref{*exchanged()}.store(issued_, std::memory_order_release);
  wake_.notify_all();
}

void StagedCommunicator::raise_timeout(OperationName name, Timeout timeout) {
  const auto error = std::make_exception_ptr(
      TimeoutError{fmt::format("rank {}: staged {} of {} bytes timed out after {} ms", rank(),
                               name.verb, name.bytes, timeout.count()),
                   rank()});
  abort_all(error, {lane_.get(), &host_});
  fail(error);
  throw_failure();
  std::rethrow_exception(error);
}

std::size_t StagedCommunicator::width_of(const StagedTransfer& transfer) const {
  const std::size_t rows = std::max({transfer.rows_in, transfer.rows_out, std::size_t{1}});
  return options_.chunk_bytes / rows / width_unit * width_unit;
}

/// An empty transfer is an exchange too: a barrier.
std::size_t StagedCommunicator::chunks_of(const StagedTransfer& transfer) const {
  const std::size_t width = width_of(transfer);
  return std::max<std::size_t>(1, (transfer.part_bytes + width - 1) / width);
}

StagedCommunicator::JobHandle StagedCommunicator::enqueue(OperationName name, StreamView stream,
                                                          std::vector<StagedTransfer> transfers) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  THINWIRE_CUDA_TRY(cudaStreamIsCapturing(stream.handle(), &capture));
  THINWIRE_EXPECTS(capture == cudaStreamCaptureStatusNone, InvalidArgument,
                   fmt::format("staged {}: exchanges through host memory cannot be captured in a "
                               "CUDA graph; use NCCL for that",
                               name.verb));
  auto job = std::make_shared<Job>();
  job->name = name;
  auto order = std::make_shared<Order>();
  order->transfers = std::move(transfers);
  std::size_t chunks = 0;
  for (const StagedTransfer& transfer : order->transfers) chunks += chunks_of(transfer);
  {
    const std::scoped_lock lock{mutex_};
    if (failure_) std::rethrow_exception(failure_);
    order->first_chunk = issued_ + 1;
    issued_ += static_cast<std::uint32_t>(chunks);
    orders_.push_back(order);
  }
  wake_.notify_all();
  try {  // without the lock: when the GPU's queue is full, it takes the thread to make room
    if (last_) last_->done.wait(stream);
    std::uint32_t number = order->first_chunk;
    for (const StagedTransfer& transfer : order->transfers) {
      enqueue_transfer(transfer, number, stream);
      number += static_cast<std::uint32_t>(chunks_of(transfer));
    }
    job->done.record(stream);
    last_ = job;
  } catch (...) {  // whatever waits now would wait for ever
    const auto error = std::current_exception();
    abort_all(error, {lane_.get(), &host_});
    fail(error);
    throw;
  }
  return job;
}

/// As many chunks are fetched ahead as there are slots: one is on the network, the next ones come,
/// and what has come back makes room.
void StagedCommunicator::enqueue_transfer(const StagedTransfer& transfer, std::uint32_t first,
                                          StreamView stream) {
  const std::size_t chunks = chunks_of(transfer);
  const auto number = [first](std::size_t chunk) {
    return first + static_cast<std::uint32_t>(chunk);
  };
  for (std::size_t chunk = 0; chunk < std::min(chunks, slots_.size()); ++chunk) {
    enqueue_fetch(transfer, chunk, number(chunk), stream);
  }
  for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
    enqueue_delivery(transfer, chunk, number(chunk), stream);
    const std::size_t next = chunk + slots_.size();
    if (next < chunks) enqueue_fetch(transfer, next, number(next), stream);
  }
}

void StagedCommunicator::enqueue_fetch(const StagedTransfer& transfer, std::size_t chunk,
                                       std::uint32_t number, StreamView stream) {
  const std::size_t offset = chunk * width_of(transfer);
  const std::size_t bytes = std::min(width_of(transfer), transfer.part_bytes - offset);
  if (bytes != 0 && transfer.rows_in != 0) {
    THINWIRE_CUDA_TRY(cudaMemcpy2DAsync(slot(number).in.data(), bytes, transfer.in + offset,
                                        transfer.part_bytes, bytes, transfer.rows_in,
                                        cudaMemcpyDeviceToHost, stream.handle()));
  }
  words_.write(stream, fetched(), number);
}

void StagedCommunicator::enqueue_delivery(const StagedTransfer& transfer, std::size_t chunk,
                                          std::uint32_t number, StreamView stream) {
  words_.wait(stream, exchanged(), number);
  const std::size_t offset = chunk * width_of(transfer);
  const std::size_t bytes = std::min(width_of(transfer), transfer.part_bytes - offset);
  if (bytes == 0 || transfer.rows_out == 0) return;
  THINWIRE_CUDA_TRY(cudaMemcpy2DAsync(transfer.out + offset, transfer.part_bytes,
                                      slot(number).out.data(), bytes, bytes, transfer.rows_out,
                                      cudaMemcpyHostToDevice, stream.handle()));
}

void StagedCommunicator::work() noexcept {
  try {
    for (;;) {
      std::shared_ptr<const Order> order;
      {
        std::unique_lock lock{mutex_};
        wake_.wait(lock, [this] { return stopping_ || failed_ || !orders_.empty(); });
        if (failed_ || orders_.empty()) return;
        order = std::move(orders_.front());
        orders_.pop_front();
      }
      carry(*order);
    }
  } catch (...) {
    const auto error = std::current_exception();
    abort_all(error, {lane_.get(), &host_});
    fail(error);
  }
}

void StagedCommunicator::carry(const Order& order) {
  std::uint32_t number = order.first_chunk;
  for (const StagedTransfer& transfer : order.transfers) {
    const std::size_t width = width_of(transfer);
    const std::size_t chunks = chunks_of(transfer);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, ++number) {
      const std::atomic_ref here{*fetched()};
      for (Backoff backoff;
           static_cast<std::int32_t>(here.load(std::memory_order_acquire) - number) < 0;
           backoff.pause()) {
        throw_failure();
      }
      const std::size_t bytes = std::min(width, transfer.part_bytes - chunk * width);
      Slot& mine = slot(number);
      transfer.post(*lane_, mine.in.data(), mine.out.data(), bytes)->wait(options_.timeout);
      const std::scoped_lock lock{mutex_};
      if (failure_) std::rethrow_exception(failure_);
      std::atomic_ref{*exchanged()}.store(number, std::memory_order_release);
    }
  }
}

bool StagedCommunicator::done(const Job& job) {
  throw_failure();
  const bool ready = job.done.ready();
  throw_failure();  // an aborted job ends too, but not well
  return ready;
}

void StagedCommunicator::wait(const Job& job, Timeout timeout) {
  const auto deadline = deadline_after(timeout);
  for (Backoff backoff; !done(job); backoff.pause()) {
    if (std::chrono::steady_clock::now() >= deadline) raise_timeout(job.name, timeout);
  }
}

WorkHandle StagedCommunicator::run(OperationName name, StreamView stream, StagedTransfer transfer) {
  std::vector<StagedTransfer> one;
  one.push_back(std::move(transfer));
  return std::make_unique<StagedWork>(*this, enqueue(name, stream, std::move(one)));
}

void StagedCommunicator::exchange(OperationName name, StreamView stream, Calls, const Body& body) {
  StagedGroup group{size()};
  body(group);
  enqueue(name, stream, std::move(group.transfers));
}

void StagedCommunicator::wait_for(OperationName name, StreamView stream, Timeout timeout) {
  throw_failure();
  if (last_) last_->done.wait(stream);  // jobs are chained
  Job end;
  end.name = name;
  end.done.record(stream);
  wait(end, timeout);
}

WorkHandle StagedCommunicator::allreduce(ConstTensorView in, TensorView out, ReduceOp op,
                                         StreamView stream) {
  THINWIRE_EXPECTS(in.dtype == out.dtype && in.numel == out.numel, InvalidArgument,
                   fmt::format("staged allreduce: in has {} elements of {}, out {} of {}", in.numel,
                               to_string(in.dtype), out.numel, to_string(out.dtype)));
  expect_device("allreduce", in, in.bytes());
  expect_device("allreduce", out, out.bytes());
  return run({"allreduce", in.bytes()}, stream, allreduce_transfer(in, out, op));
}

WorkHandle StagedCommunicator::allreduce_max(std::span<std::uint64_t> words, StreamView stream) {
  return run({"allreduce_max", words.size_bytes()}, stream,
             max_transfer(words.data(), words.size()));
}

WorkHandle StagedCommunicator::reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                                              StreamView stream) {
  THINWIRE_EXPECTS(
      in.dtype == out.dtype && in.numel == out.numel * size(), InvalidArgument,
      fmt::format("staged reduce_scatter: in has {} elements of {}, where {} of {} are needed",
                  in.numel, to_string(in.dtype), out.numel * size(), to_string(out.dtype)));
  expect_device("reduce_scatter", in, in.bytes());
  expect_device("reduce_scatter", out, out.bytes());
  return run({"reduce_scatter", in.bytes()}, stream,
             reduce_scatter_transfer(in, out, op, static_cast<std::size_t>(size())));
}

WorkHandle StagedCommunicator::all_gather(ConstByteView in, ByteView out, StreamView stream) {
  expect_parts("all_gather", out.size, in.size, size());
  expect_device("all_gather", in, in.size);
  expect_device("all_gather", out, out.size);
  return run({"all_gather", out.size}, stream,
             all_gather_transfer(in.data, out.data, in.size, static_cast<std::size_t>(size())));
}

WorkHandle StagedCommunicator::all_to_all(ConstByteView in, ByteView out, StreamView stream) {
  const std::size_t part = in.size / static_cast<std::size_t>(size());
  expect_parts("all_to_all", in.size, part, size());
  expect_parts("all_to_all", out.size, part, size());
  expect_device("all_to_all", in, in.size);
  expect_device("all_to_all", out, out.size);
  return run({"all_to_all", in.size}, stream,
             all_to_all_transfer(in.data, out.data, part, static_cast<std::size_t>(size())));
}

/// Parts of any size go whole, through memory of their own: it is no operation of a step.
WorkHandle StagedCommunicator::all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                                            std::span<const std::size_t> in_offsets, ByteView out,
                                            std::span<const std::size_t> out_bytes,
                                            std::span<const std::size_t> out_offsets,
                                            StreamView stream) {
  expect_device("all_to_all_v", in, in.size);
  expect_device("all_to_all_v", out, out.size);
  const auto pinned = std::make_shared<PinnedMemory>();
  const Buffer from{pinned, in.size, "staging"};
  const Buffer to{pinned, out.size, "staging"};
  const auto copy = [&](void* target, const void* source, std::size_t bytes) {
    if (bytes == 0) return;
    THINWIRE_CUDA_TRY(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream.handle()));
    THINWIRE_CUDA_TRY(cudaStreamSynchronize(stream.handle()));
  };
  copy(from.data(), in.data, in.size);
  host_
      .all_to_all_v({from.data(), in.size}, in_bytes, in_offsets, {to.data(), out.size}, out_bytes,
                    out_offsets)
      ->wait(options_.timeout);
  copy(out.data, to.data(), out.size);
  return run({"all_to_all_v"}, stream,
             {.post = [](Communicator& host, std::byte*, std::byte*, std::size_t) {
               return host.barrier();
             }});
}

WorkHandle StagedCommunicator::broadcast(ByteView data, int root, StreamView stream) {
  expect_device("broadcast", data, data.size);
  const bool mine = root == rank();
  return run({"broadcast", data.size}, stream,
             {data.data, mine ? 1u : 0u, data.data, mine ? 0u : 1u, data.size,
              [mine, root](Communicator& host, std::byte* from, std::byte* to, std::size_t width) {
                return host.broadcast({mine ? from : to, width}, root);
              }});
}

WorkHandle StagedCommunicator::send(ConstByteView data, int to, StreamView stream) {
  expect_device("send", data, data.size);
  return run({"send", data.size}, stream,
             {data.data, 1, nullptr, 0, data.size,
              [to](Communicator& host, std::byte* from, std::byte*, std::size_t width) {
                return host.send({from, width}, to);
              }});
}

WorkHandle StagedCommunicator::recv(ByteView data, int from, StreamView stream) {
  expect_device("recv", data, data.size);
  return run({"recv", data.size}, stream,
             {nullptr, 0, data.data, 1, data.size,
              [from](Communicator& host, std::byte*, std::byte* to, std::size_t width) {
                return host.recv({to, width}, from);
              }});
}

WorkHandle StagedCommunicator::barrier() {
  return run({"barrier"}, own_,
             {.post = [](Communicator& host, std::byte*, std::byte*, std::size_t) {
               return host.barrier();
             }});
}

std::unique_ptr<Communicator> StagedCommunicator::split(int color, int key) {
  auto child = host_.split(color, key);
  if (!child) return nullptr;
  return std::make_unique<StagedCommunicator>(std::move(child), options_);
}

std::unique_ptr<Communicator> make_staged_communicator(Communicator& host,
                                                       const StagedOptions& options) {
  return std::make_unique<StagedCommunicator>(host, options);
}

}  // namespace thinwire::comm
