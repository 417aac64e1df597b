#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "gpu.hpp"
#include "thinwire/compress/cuda_coder.hpp"
#include "thinwire/compress/header.hpp"

/// A compressed allreduce on one GPU among ranks that are loop indices.
namespace thinwire::compress::test {

using thinwire::test::check;
using thinwire::test::Gpu;

class GpuRanks {
 public:
  /// Gradient tensors start `misalignment` elements behind an aligned address.
  GpuRanks(Gpu& gpu, const Plan& plan, int misalignment = 0)
      : gpu_{gpu},
        plan_{plan},
        step_{gpu.memory, gpu.stream.view()},
        ring_{gpu.memory},
        coder_{plan, gpu.memory, step_, ring_, gpu.stream.view()},
        offset_{static_cast<std::size_t>(misalignment) * size_of(plan.settings().dtype)} {
    for (int rank = 0; rank < plan.ranks(); ++rank) {
      states_.push_back(
          std::make_unique<CudaState>(plan, rank, gpu.memory, step_, gpu.stream.view()));
      gradients_.push_back(gpu.buffer(offset_ + tensor_bytes()));
      sent_.push_back(gpu.buffer(plan.payload_bytes(Phase::reduce)));
    }
    received_ = gpu.buffer(plan.payload_bytes(Phase::reduce));
    reduced_ = gpu.buffer(plan.payload_bytes(Phase::gather));
    out_ = gpu.buffer(offset_ + tensor_bytes());
  }

  CudaState& state(int rank) { return *states_[static_cast<std::size_t>(rank)]; }
  CudaStep& step() { return step_; }
  ErrorRing& ring() { return ring_; }
  CudaCoder& coder() { return coder_; }
  std::byte* sent(int rank) { return sent_[static_cast<std::size_t>(rank)].data(); }
  std::byte* reduced() { return reduced_.data(); }
  std::byte* out() { return out_.data() + offset_; }
  std::size_t tensor_bytes() const {
    return static_cast<std::size_t>(plan_.source_extent()) * size_of(plan_.settings().dtype);
  }

  void set_gradients(int rank, const std::vector<std::byte>& values) {
    gpu_.copy(gradient(rank), values.data(), values.size());
  }
  void fill_out(int byte) {
    if (tensor_bytes() == 0) return;
    check(cudaMemsetAsync(out(), byte, tensor_bytes(), stream().handle()));
  }

  /// Enqueues everything that ranks do in a call, but for the end of the step.
  void enqueue(const CudaCall& scales = {}) {
    for (int rank = 0; rank < plan_.ranks(); ++rank) enqueue_encode(rank, scales);
    for (int rank = 0; rank < plan_.ranks(); ++rank) enqueue_reduce_encode(rank, scales);
    enqueue_decode(scales);
  }

  void enqueue_encode(int rank, CudaCall call = {}) {
    call.stream = stream();
    const ConstTensorView gradients{gradient(rank), plan_.source_extent(), plan_.settings().dtype,
                                    Device::cuda};
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      coder_.encode(chunk, gradients, state(rank), call,
                    part(sent_[static_cast<std::size_t>(rank)], chunk, Phase::reduce));
    }
  }

  void enqueue_exchange(int shard, int chunk) {
    const std::size_t bytes = plan_.slot_bytes(chunk, Phase::reduce);
    for (int rank = 0; rank < plan_.ranks(); ++rank) {
      const std::size_t at = plan_.chunk_offset(chunk, Phase::reduce);
      check(cudaMemcpyAsync(received_.data() + at + static_cast<std::size_t>(rank) * bytes,
                            sent(rank) + at + static_cast<std::size_t>(shard) * bytes, bytes,
                            cudaMemcpyDeviceToDevice, stream().handle()));
    }
  }

  void enqueue_reduce_encode(int rank, CudaCall call = {}) {
    call.stream = stream();
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      enqueue_exchange(rank, chunk);
      const std::size_t bytes = plan_.slot_bytes(chunk, Phase::gather);
      const ByteView slots = part(reduced_, chunk, Phase::gather);
      coder_.reduce_encode(
          chunk, received(chunk), state(rank), call,
          {slots.data + static_cast<std::size_t>(rank) * bytes, bytes, Device::cuda});
    }
  }

  void enqueue_decode(CudaCall call = {}) {
    call.stream = stream();
    const TensorView view{out(), plan_.source_extent(), plan_.settings().dtype, Device::cuda};
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
      coder_.decode(chunk, part(reduced_, chunk, Phase::gather), call, view);
    }
  }

  /// The N slots that came for a shard (after enqueue_exchange).
  ByteView received(int chunk) { return part(received_, chunk, Phase::reduce); }

  std::vector<std::byte> host_sent(int rank) {
    return gpu_.download(sent(rank), plan_.payload_bytes(Phase::reduce));
  }
  std::vector<std::byte> host_reduced() {
    return gpu_.download(reduced(), plan_.payload_bytes(Phase::gather));
  }
  std::vector<std::byte> host_out() { return gpu_.download(out(), tensor_bytes()); }

  StreamView stream() const { return gpu_.stream.view(); }

 private:
  std::byte* gradient(int rank) {
    return gradients_[static_cast<std::size_t>(rank)].data() + offset_;
  }
  ByteView part(const Buffer& buffer, int chunk, Phase phase) const {
    return {buffer.data() + plan_.chunk_offset(chunk, phase),
            static_cast<std::size_t>(plan_.ranks()) * plan_.slot_bytes(chunk, phase), Device::cuda};
  }

  Gpu& gpu_;
  const Plan& plan_;
  CudaStep step_;
  ErrorRing ring_;
  CudaCoder coder_;
  std::size_t offset_;
  std::vector<std::unique_ptr<CudaState>> states_;
  std::vector<Buffer> gradients_;
  std::vector<Buffer> sent_;
  Buffer received_;
  Buffer reduced_;
  Buffer out_;
};

}  // namespace thinwire::compress::test
