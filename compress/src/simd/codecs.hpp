#pragma once

#include "simd/kernels.hpp"

/// One line a codec: the kernels of its .cpp file for the target of the moment.
namespace thinwire::compress::simd {

BlockKernels none_kernels();
BlockKernels bf16_kernels();
BlockKernels fp16_kernels();
BlockKernels int8_kernels();
BlockKernels int4_kernels();
BlockKernels sign_kernels(SignScale scale);

}  // namespace thinwire::compress::simd
