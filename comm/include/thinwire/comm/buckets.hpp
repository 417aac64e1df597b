#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "thinwire/compress/plan.hpp"

namespace thinwire::comm {

/// A parameter as the training loop names it. Order, names and shapes are equal on all ranks.
struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  DType dtype = DType::f32;

  std::int64_t numel() const;
};

/// Gradients reduced together: spans of one flat tensor of one dtype.
struct Bucket {
  DType dtype = DType::f32;
  std::int64_t elements = 0;
  std::vector<compress::CodecSpec> sections;
  std::vector<compress::Span> spans;
};

/// Where a parameter's gradient stands.
struct Placement {
  std::size_t bucket = 0;
  std::int64_t offset = 0;  ///< first element in the bucket's flat tensor
};

struct BucketLayout {
  std::vector<Bucket> buckets;
  std::vector<Placement> placements;  ///< by parameter, in the order given
};

/// Which codec a parameter gets, from its name and shape.
using CodecRule = std::function<compress::CodecSpec(const Parameter&)>;

/// Packs parameters into buckets of at most `cap_bytes` (a larger parameter gets its own), in the
/// order given and without padding; a change of dtype starts a new bucket. Backward makes gradients
/// last layer first, so give parameters in reverse order when buckets shall overlap with it.
/// Throws InvalidArgument for a duplicate name, a negative shape or no cap.
BucketLayout make_buckets(std::span<const Parameter> parameters, std::size_t cap_bytes,
                          const CodecRule& rule);

/// Every parameter the same codec.
CodecRule one_codec(compress::CodecSpec spec);

}  // namespace thinwire::comm
