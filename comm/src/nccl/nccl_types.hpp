#pragma once

#include <nccl.h>

#include "thinwire/comm/communicator.hpp"
#include "thinwire/core/error.hpp"

/// Our names for NCCL's.
namespace thinwire::comm {

inline ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f16:
      return ncclFloat16;
    case DType::bf16:
      return ncclBfloat16;
  }
  throw InvalidArgument{"unknown dtype"};
}

inline ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::avg:
      return ncclAvg;
    case ReduceOp::max:
      return ncclMax;
  }
  throw InvalidArgument{"unknown reduction"};
}

}  // namespace thinwire::comm
