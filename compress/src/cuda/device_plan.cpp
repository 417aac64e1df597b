#include "cuda/device_plan.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "cuda/try.hpp"
#include "run_layout.hpp"

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

/// Places in the scratch memory that selections share: one after the other uses it.
class Scratch {
 public:
  explicit Scratch(std::byte* base) : base_{base} {}

  /// What is taken from here on may overlap what was taken before.
  void restart() { used_ = 0; }

  template <typename T>
  T* take(std::size_t count) {
    const std::size_t at = (used_ + 255) / 256 * 256;
    used_ = at + count * sizeof(T);
    bytes_ = std::max(bytes_, used_);
    return reinterpret_cast<T*>(base_ + at);
  }

  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
  std::size_t bytes_ = 0;
};

TopkScratch scratch_of(const TopkRow& row, const TopkView& view, Verb verb, bool owner_keeps_x,
                       Image& image, Scratch& scratch) {
  TopkScratch result{.control = image.put(std::vector<TopkControl>(1)),
                     .sample = image.put(std::vector<std::uint32_t>(topk_bins)),
                     .keys = nullptr,
                     .digits = scratch.take<std::uint32_t>(topk_looks * topk_bins),
                     .non_finite = scratch.take<std::uint32_t>(
                         static_cast<std::size_t>(ceil_div(row.elements, topk_block))),
                     .totals = scratch.take<std::uint64_t>(view.blocks),
                     .units = scratch.take<TopkUnit>(row.units),
                     .candidates = nullptr,
                     .room = 0,
                     .touched = nullptr,
                     .x = nullptr};
  const std::int64_t room = row.wanted == 0 ? row.elements : 2 * std::int64_t{row.wanted};
  result.room = static_cast<std::uint32_t>(std::min(room, row.elements));
  result.candidates =
      scratch.take<TopkCandidate>(static_cast<std::size_t>(row.units) * row.segment + result.room);
  result.keys = scratch.take<std::uint32_t>(std::size_t{most_sample_places} * sample_run);
  if (verb == Verb::reduce_encode) {
    result.touched = scratch.take<std::uint32_t>(row.pieces);
    if (owner_keeps_x) result.x = scratch.take<float>(static_cast<std::size_t>(row.elements));
  }
  return result;
}

void lay_out_topk(SectionTiles& section, const Plan& plan, Verb verb, Image& image,
                  Scratch& scratch) {
  if (section.topk.empty()) return;
  const bool remembered = plan.sections()[section.section].feedback == Feedback::ef &&
                          plan.settings().operation == Operation::allreduce;
  if (verb == Verb::encode || verb == Verb::reduce_encode) {
    scratch.restart();
    for (TopkRow& row : section.topk) {
      if (row.units == 0) continue;
      if (verb == Verb::reduce_encode) scratch.restart();  // an owner has one shard
      row.scratch = scratch_of(row, section.topk_view, verb, !remembered, image, scratch);
    }
  }
  section.topk_view.rows = image.put(section.topk);
}

DeviceChunk lay_out(const ChunkTables& tables, const Plan& plan, int chunk, Verb verb, Image& image,
                    Scratch& scratch) {
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
  const std::vector<std::uint64_t> digests(tables.arrivals.back());
  result.gathered = {
      .digests = image.put(digests),
      .digests_out = image.put(digests),
      .flags = image.put(std::vector<std::uint32_t>(static_cast<std::size_t>(plan.ranks())))};
  result.sections = tables.sections;
  for (SectionTiles& section : result.sections) lay_out_topk(section, plan, verb, image, scratch);
  result.tiles = static_cast<std::uint32_t>(tables.tiles.size());
  view.arrivals = image.put(tables.arrivals);
  return result;
}

}  // namespace

DevicePlan::DevicePlan(const Plan& plan, const std::shared_ptr<MemoryResource>& memory,
                       StreamView stream) {
  int device = 0;
  int multiprocessors = 0;
  THINWIRE_CUDA_TRY(cudaGetDevice(&device));
  THINWIRE_CUDA_TRY(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  std::vector<ChunkTables> tables;
  Scratch sizes{nullptr};
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (const Verb verb : all_verbs) {
      tables.push_back(build_tables(plan, chunk, verb, multiprocessors));
      Image image{nullptr};
      lay_out(tables.back(), plan, chunk, verb, image, sizes);
      buffers_.push_back(Buffer{memory, image.bytes().size(), "tables"});
    }
  }
  buffers_.push_back(Buffer{memory, sizes.bytes(), "scratch"});
  Scratch scratch{buffers_.back().data()};
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (const Verb verb : all_verbs) {
      const std::size_t index = index_of(chunk, verb);
      Image image{buffers_[index].data()};
      chunks_.push_back(lay_out(tables[index], plan, chunk, verb, image, scratch));
      THINWIRE_CUDA_TRY(cudaMemcpyAsync(buffers_[index].data(), image.bytes().data(),
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
