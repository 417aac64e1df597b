#include "thinwire/compress/cuda_state.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "cuda/launch.hpp"
#include "cuda/rows.hpp"
#include "cuda/try.hpp"
#include "residual_map.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

void copy(void* to, const void* from, std::size_t bytes, StreamView stream) {
  if (bytes == 0) return;
  THINWIRE_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.handle()));
  THINWIRE_CUDA_TRY(cudaStreamSynchronize(stream.handle()));
}

Buffer zeros(const std::shared_ptr<MemoryResource>& memory, std::size_t bytes, const char* tag,
             StreamView stream) {
  Buffer buffer{memory, bytes, tag};
  if (bytes != 0) {
    THINWIRE_CUDA_TRY(cudaMemsetAsync(buffer.data(), 0, bytes, stream.handle()));
  }
  return buffer;
}

Buffer residual(const std::shared_ptr<MemoryResource>& memory, std::int64_t elements,
                StreamView stream) {
  return zeros(memory, static_cast<std::size_t>(elements) * sizeof(float), "residual", stream);
}

std::vector<float> to_host(const float* values, std::size_t bytes, StreamView stream) {
  std::vector<float> host(bytes / sizeof(float));
  copy(host.data(), values, bytes, stream);
  return host;
}

cuda::StateRow read_row(const cuda::StateRow* row, StreamView stream) {
  cuda::StateRow host;
  copy(&host, row, sizeof host, stream);
  THINWIRE_EXPECTS(host.worker_written == 0 && host.server_written == 0, InvalidArgument,
                   "state: exported or imported in the middle of a step");
  return host;
}

}  // namespace

// ---- CudaStep ----

CudaStep::CudaStep(std::shared_ptr<MemoryResource> device_memory, StreamView stream,
                   int most_states)
    : block_{zeros(
          device_memory,
          sizeof(cuda::StepBlock) + static_cast<std::size_t>(most_states) * sizeof(cuda::StateRow),
          "step", stream)},
      reports_{std::make_shared<PinnedMemory>(), cuda::kept_reports * sizeof(cuda::ReportRow),
               "step"} {
  std::fill_n(reports_.as<cuda::ReportRow>(), cuda::kept_reports, cuda::ReportRow{});
  for (int i = most_states - 1; i >= 0; --i) free_rows_.push_back(device_block()->rows() + i);
  THINWIRE_CUDA_TRY(cudaStreamSynchronize(stream.handle()));
}

cuda::StepBlock* CudaStep::device_block() const { return block_.as<cuda::StepBlock>(); }

void CudaStep::set_sequence(std::uint64_t sequence, StreamView stream) {
  cuda::set_sequence(device_block(), sequence, stream.handle());
}

void CudaStep::end(StreamView stream, const float* found_inf) {
  cuda::end_step(device_block(), rows_, reports_.as<cuda::ReportRow>(), found_inf, stream.handle());
}

std::optional<CudaStepReport> CudaStep::report(std::uint64_t sequence) const {
  cuda::ReportRow& row = reports_.as<cuda::ReportRow>()[sequence % cuda::kept_reports];
  const std::atomic_ref done{row.done};
  if (done.load(std::memory_order_acquire) != sequence + 1) return std::nullopt;
  const CudaStepReport report{.sequence = row.sequence,
                              .flags = row.flags,
                              .failed = row.failed != 0,
                              .skipped = row.skipped != 0};
  // A later step may have begun to overwrite it meanwhile.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (done.load(std::memory_order_relaxed) != sequence + 1) return std::nullopt;
  return report;
}

cuda::StateRow* CudaStep::take_row() {
  THINWIRE_EXPECTS(!free_rows_.empty(), InvalidArgument,
                   "step: there are more states than CudaStep was made for");
  cuda::StateRow* row = free_rows_.back();
  free_rows_.pop_back();
  rows_ = std::max(rows_, static_cast<int>(row - device_block()->rows()) + 1);
  return row;
}

void CudaStep::give_row(cuda::StateRow* row) { free_rows_.push_back(row); }

// ---- CudaState ----

CudaState::CudaState(const Plan& plan, int shard, std::shared_ptr<MemoryResource> device_memory,
                     CudaStep& step, StreamView stream)
    : plan_{&plan}, shard_{shard}, step_{&step} {
  THINWIRE_EXPECTS(shard >= 0 && shard < plan.ranks(), InvalidArgument,
                   fmt::format("state: shard {} of a plan for {} ranks", shard, plan.ranks()));
  const bool in_place = plan.settings().commit == Commit::in_place;
  worker_[0] = residual(device_memory, plan.residual_elements(), stream);
  if (!in_place) worker_[1] = residual(device_memory, plan.residual_elements(), stream);
  for (Buffer& version : server_) {
    version = residual(device_memory, plan.server_elements(shard), stream);
  }
  row_ = step.take_row();
  cuda::StateRow row{};
  row.in_place = in_place ? 1 : 0;
  copy(row_, &row, sizeof row, stream);
}

CudaState::~CudaState() { step_->give_row(row_); }

float* CudaState::worker_version(int version) const {
  const bool in_place = plan_->settings().commit == Commit::in_place;
  return worker_[in_place ? 0 : version].as<float>();
}

float* CudaState::committed_worker(StreamView stream) const {
  return worker_version(static_cast<int>(read_row(row_, stream).worker_version));
}

float* CudaState::committed_server(StreamView stream) const {
  return server_version(static_cast<int>(read_row(row_, stream).server_version));
}

std::vector<Residual> CudaState::export_worker(StreamView stream) const {
  const auto host = to_host(committed_worker(stream), worker_[0].size(), stream);
  return export_from(host.data(), worker_stretches(*plan_));
}

std::vector<Residual> CudaState::export_server(StreamView stream) const {
  const auto host = to_host(committed_server(stream), server_[0].size(), stream);
  return export_from(host.data(), server_stretches(*plan_, shard_));
}

std::int64_t CudaState::import_worker(std::span<const Residual> residuals, StreamView stream) {
  float* values = committed_worker(stream);
  auto host = to_host(values, worker_[0].size(), stream);
  const auto taken = import_into(host.data(), worker_stretches(*plan_), residuals);
  copy(values, host.data(), worker_[0].size(), stream);
  return taken;
}

std::int64_t CudaState::import_server(std::span<const Residual> residuals, StreamView stream) {
  float* values = committed_server(stream);
  auto host = to_host(values, server_[0].size(), stream);
  const auto taken = import_into(host.data(), server_stretches(*plan_, shard_), residuals);
  copy(values, host.data(), server_[0].size(), stream);
  return taken;
}

}  // namespace thinwire::compress
