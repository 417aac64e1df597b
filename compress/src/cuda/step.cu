#include "cuda/finish.cuh"
#include "cuda/try.hpp"

namespace thinwire::compress::cuda {
namespace {

/// One thread block; see CudaStep::end.
__global__ void end_step_kernel(StepBlock* step, StateRow* rows, int count, ReportRow* reports,
                                const float* found_inf) {
  const bool failed = step->failed != 0;
  const bool skipped = failed || (step->flags & flag_non_finite) != 0 ||
                       (found_inf != nullptr && *found_inf != 0.0f);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    StateRow& row = rows[i];
    // What was written in place cannot be taken back, so such a step is committed all the same.
    const bool commit = row.in_place != 0 ? !failed : !skipped;
    if (commit && row.worker_written != 0) row.worker_version ^= 1u;
    if (commit && row.server_written != 0) row.server_version ^= 1u;
    row.worker_written = 0;
    row.server_written = 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  volatile ReportRow& report = reports[step->sequence % kept_reports];
  report.done = 0;
  __threadfence_system();
  report.sequence = step->sequence;
  report.flags = step->flags;
  report.failed = failed ? 1 : 0;
  report.skipped = skipped ? 1 : 0;
  __threadfence_system();
  report.done = step->sequence + 1;
  step->sequence += 1;
  step->flags = 0;
  step->failed = 0;
}

__global__ void set_sequence_kernel(StepBlock* step, std::uint64_t sequence) {
  step->sequence = sequence;
}

}  // namespace

void end_step(StepBlock* step, int rows, ReportRow* reports, const float* found_inf,
              cudaStream_t stream) {
  end_step_kernel<<<1, 256, 0, stream>>>(step, step->rows(), rows, reports, found_inf);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

void set_sequence(StepBlock* step, std::uint64_t sequence, cudaStream_t stream) {
  set_sequence_kernel<<<1, 1, 0, stream>>>(step, sequence);
  THINWIRE_CUDA_TRY(cudaGetLastError());
}

}  // namespace thinwire::compress::cuda
