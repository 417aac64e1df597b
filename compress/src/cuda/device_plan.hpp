#pragma once

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
  std::vector<std::uint32_t> ways;  ///< of gathering, by shard
};

/// A plan's tables in device memory. Immutable but for what Gathered points to.
class DevicePlan {
 public:
  /// Blocks. Throws OutOfMemory or CudaError.
  DevicePlan(const Plan& plan, const std::shared_ptr<MemoryResource>& memory, StreamView stream);

  const DeviceChunk& chunk(int chunk, Verb verb) const {
    return chunks_[static_cast<std::size_t>(chunk * verbs + static_cast<int>(verb))];
  }
  std::size_t bytes() const;

 private:
  std::vector<DeviceChunk> chunks_;  // [chunk * verbs + verb]
  std::vector<Buffer> buffers_;
};

}  // namespace thinwire::compress::cuda
