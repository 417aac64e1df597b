#pragma once

#include <mpi.h>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// An operation of MPI, and the MPI type it works on.
struct MpiReduction {
  MPI_Datatype type;
  MPI_Op op;
};

/// MPI's own where it has one (sum of fp32); else ours, which adds fp16 and bf16 in fp32 and lets a
/// NaN through a max. `op` is sum or max. Made at the first use and kept.
const MpiReduction& mpi_reduction(DType dtype, ReduceOp op);

}  // namespace thinwire::comm
