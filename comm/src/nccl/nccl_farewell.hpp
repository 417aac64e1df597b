#pragma once

#include "cuda_functions.hpp"
#include "nccl_functions.hpp"

namespace thinwire::comm {

/// What is left of a communicator whose session ends well.
struct NcclFarewell {
  NcclFunctions nccl;
  CudaFunctions cuda;
  ncclComm_t communicator = nullptr;
  int device = 0;
  cudaStream_t stream = nullptr;
  void* word = nullptr;
};

/// Destroys the communicator and frees the rest, on a thread of its own, and waits for that 200 ms
/// at most: ncclCommFinalize and ncclCommDestroy return when all ranks of the machine have called
/// them, and garbage collectors of several processes have no common hour. The end of the process
/// waits 5 s for those that are still under way.
void bid_farewell(const NcclFarewell& last);

}  // namespace thinwire::comm
