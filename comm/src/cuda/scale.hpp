#pragma once

#include "thinwire/core/stream.hpp"
#include "thinwire/core/tensor_view.hpp"

namespace thinwire::comm::cuda {

/// tensor[i] *= *inv_scale * *out_scale on the stream; a null scale is 1. Device memory.
void scale_in_place(TensorView tensor, const float* inv_scale, const float* out_scale,
                    StreamView stream);

}  // namespace thinwire::comm::cuda
