#pragma once

#include <cstdint>

struct CUstream_st;

/// Passes that do nothing but move bytes: what a codec is compared with.
namespace thinwire::bench {

/// e = g + e on n floats: reads two, writes one, 16 bytes an access.
void enqueue_mix(const float* g, float* e, std::int64_t n, CUstream_st* stream);

}  // namespace thinwire::bench
