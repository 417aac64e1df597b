#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// What cuBLAS has not, for the model on a GPU. All enqueue on the stream; matrices are row-major
/// device memory.
namespace fashion::cuda {

/// y[r][c] += bias[c]; with `relu` negative values become 0.
void add_bias(float* y, const float* bias, std::int64_t rows, std::int64_t cols, bool relu,
              cudaStream_t stream);

/// sums[c] = sum over rows of x[r][c], in order.
void sum_rows(const float* x, float* sums, std::int64_t rows, std::int64_t cols,
              cudaStream_t stream);

/// gradient[i] = 0 where activation[i] is not above 0.
void mask_by(float* gradient, const float* activation, std::int64_t count, cudaStream_t stream);

/// Adds the mean softmax cross-entropy to *loss; writes its gradient with respect to the logits.
void softmax_cross_entropy(const float* logits, const std::uint8_t* labels, float* gradient,
                           double* loss, std::int64_t rows, std::int64_t classes,
                           cudaStream_t stream);

/// Adds the rows whose largest logit is that of their label to *correct.
void count_correct(const float* logits, const std::uint8_t* labels, unsigned long long* correct,
                   std::int64_t rows, std::int64_t classes, cudaStream_t stream);

/// v = momentum v + g, p = p - rate v; v is g where `velocity` is null.
void sgd(float* value, const float* gradient, float* velocity, float momentum, float rate,
         std::int64_t count, cudaStream_t stream);

}  // namespace fashion::cuda
