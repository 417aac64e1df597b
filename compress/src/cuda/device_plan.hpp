#pragma once

#include <iterator>
#include <memory>
#include <vector>

#include "cuda/rows.hpp"
#include "cuda/tables.hpp"
#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/stream.hpp"

namespace thinwire::compress::cuda {

/// The tables of one chunk and verb in device memory.
struct DeviceChunk {
  ChunkView view;
  Gathered gathered;
  std::vector<SectionTiles> sections;
  std::uint32_t tiles = 0;
};

/// A plan's tables in device memory. Immutable but for what Gathered points to.
class DevicePlan {
 public:
  /// Blocks. Throws OutOfMemory or CudaError.
  DevicePlan(const Plan& plan, const std::shared_ptr<MemoryResource>& memory, StreamView stream);

  const DeviceChunk& chunk(int chunk, Verb verb) const { return chunks_[index_of(chunk, verb)]; }
  std::size_t bytes() const;

 private:
  static std::size_t index_of(int chunk, Verb verb) {
    return static_cast<std::size_t>(chunk) * std::size(all_verbs) + static_cast<std::size_t>(verb);
  }

  std::vector<DeviceChunk> chunks_;  // [index_of(chunk, verb)]
  std::vector<Buffer> buffers_;      // tables in the same order, then the scratch memory
};

}  // namespace thinwire::compress::cuda
