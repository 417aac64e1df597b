#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "thinwire/compress/codec_spec.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/dtype.hpp"

/// One measurement of bench_codec.
namespace thinwire::bench {

struct CodecCase {
  compress::CodecSpec spec;
  std::string op;             ///< encode, reduce_encode or decode
  DType dtype = DType::f32;   ///< of the gradients
  std::int64_t elements = 0;  ///< of all shards together; of the one shard for reduce_encode
  int ranks = 1;
  int threads = 1;
  compress::Commit commit = compress::Commit::in_place;  ///< of the worker residual
  std::string target;                                    ///< SIMD target
  std::string data;     ///< gaussian, scaled (parameters of different scale) or constant
  bool aligned = true;  ///< gradients at a multiple of 64 bytes, else one element further
};

/// Medians of interleaved repetitions.
struct CodecTimes {
  double time_ms = 0;
  double rmw_ms = 0;     ///< the fastest floor pass over as many elements, same buffers
  double memcpy_ms = 0;  ///< of 4 bytes an element
  double fill_ms = 0;    ///< for decode to fp32: the fastest pass that fills the result alone
};

/// One span of all elements; for reduce_encode all in the shard of the owner that is measured.
compress::Plan plan_of(const CodecCase& wanted);

/// Element i of the data named `name`.
float value_of(const std::string& name, std::int64_t i, std::uint64_t seed);

/// Bytes that an element must move through memory, write-allocate left out.
double floor_bytes(const CodecCase& wanted);

CodecTimes measure(const CodecCase& wanted, int repetitions);

/// std::nth_element on |x| for the k of `wanted`, the faster of both orders.
double nth_element_ms(const CodecCase& wanted, int repetitions);

}  // namespace thinwire::bench
