#include "cuda/device_plan.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "cuda/try.hpp"

namespace thinwire::compress::cuda {
namespace {

/// Lays tables one after the other in a host image that is copied in one go. The image is gone
/// through twice: once for places, once, with the device address known, for the views.
class Image {
 public:
  explicit Image(std::byte* base) : base_{base} {}

  template <typename Row>
  Row* put(const std::vector<Row>& rows) {
    const std::size_t at = (bytes_.size() + 255) / 256 * 256;
    bytes_.resize(at + rows.size() * sizeof(Row));
    if (!rows.empty()) std::memcpy(bytes_.data() + at, rows.data(), rows.size() * sizeof(Row));
    return reinterpret_cast<Row*>(base_ + at);
  }

  template <typename Row>
  ByShard<Row> put(const RowsByShard<Row>& by_shard) {
    const Row* rows = put(by_shard.rows);
    return {rows, put(by_shard.first)};
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::vector<std::byte> bytes_;
};

DeviceChunk lay_out(const ChunkTables& tables, const Plan& plan, int chunk, Image& image) {
  DeviceChunk result;
  ChunkView& view = result.view;
  view.pieces = image.put(tables.pieces);
  view.tiles = image.put(tables.tiles);
  view.poison = image.put(tables.poison);
  for (const Phase phase : {Phase::reduce, Phase::gather}) {
    const auto p = static_cast<std::size_t>(phase);
    view.pads[p] = image.put(tables.pads[p]);
    view.seams[p] = image.put(tables.seams[p]);
    view.headers[p] = image.put(tables.headers[p]);
    view.slot_bytes[p] = plan.slot_bytes(chunk, phase);
  }
  view.piece_count = static_cast<std::uint32_t>(tables.pieces.size());
  view.shards = static_cast<std::uint32_t>(plan.ranks());
  // An owner's step has two places, however few the shards are.
  const auto places = std::max<std::size_t>(2, static_cast<std::size_t>(plan.ranks()));
  result.gathered = {.arrived = image.put(std::vector<std::uint32_t>(1)),
                     .digests = image.put(std::vector<std::uint64_t>(way_words * ways * places)),
                     .flags = image.put(std::vector<std::uint32_t>(places))};
  result.sections = tables.sections;
  result.tiles = static_cast<std::uint32_t>(tables.tiles.size());
  view.tiles_of = image.put(tables.tiles_of);
  for (const std::uint32_t tiles_of_shard : tables.tiles_of) {
    result.ways.push_back(std::min(tiles_of_shard, ways));
  }
  return result;
}

}  // namespace

DevicePlan::DevicePlan(const Plan& plan, const std::shared_ptr<MemoryResource>& memory,
                       StreamView stream) {
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (const Verb verb : {Verb::encode, Verb::reduce, Verb::decode}) {
      const ChunkTables tables = build_tables(plan, chunk, verb);
      Image sizes{nullptr};
      lay_out(tables, plan, chunk, sizes);
      buffers_.push_back(Buffer{memory, sizes.bytes().size(), "tables"});
      Image image{buffers_.back().data()};
      chunks_.push_back(lay_out(tables, plan, chunk, image));
      THINWIRE_CUDA_TRY(cudaMemcpyAsync(buffers_.back().data(), image.bytes().data(),
                                        image.bytes().size(), cudaMemcpyHostToDevice,
                                        stream.handle()));
      THINWIRE_CUDA_TRY(cudaStreamSynchronize(stream.handle()));
    }
  }
}

std::size_t DevicePlan::bytes() const {
  std::size_t total = 0;
  for (const Buffer& buffer : buffers_) total += buffer.size();
  return total;
}

}  // namespace thinwire::compress::cuda
