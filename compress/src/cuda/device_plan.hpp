#pragma once

#include <memory>
#include <vector>

#include "cuda/rows.hpp"
#include "cuda/tables.hpp"
#include "thinwire/core/memory_resource.hpp"
#include "thinwire/core/stream.hpp"

namespace thinwire::compress::cuda {

/// The verbs that gather digests on their own.
enum class Verb : int { encode = 0, reduce = 1, decode = 2 };
constexpr int verbs = 3;

/// One chunk's tables in device memory.
struct DeviceChunk {
  ChunkView view;
  Gathered gathered[verbs];
  std::vector<SectionTiles> sections;
  std::uint32_t tiles = 0;
};

/// A plan's tables in device memory. Immutable but for what Gathered points to.
class DevicePlan {
 public:
  /// Blocks. Throws OutOfMemory or CudaError.
  DevicePlan(const Plan& plan, const std::shared_ptr<MemoryResource>& memory, StreamView stream);

  const DeviceChunk& chunk(int chunk) const { return chunks_[static_cast<std::size_t>(chunk)]; }
  std::size_t bytes() const;

 private:
  std::vector<DeviceChunk> chunks_;
  std::vector<Buffer> buffers_;
};

}  // namespace thinwire::compress::cuda
