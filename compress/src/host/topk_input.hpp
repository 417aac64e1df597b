#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "thinwire/compress/plan.hpp"
#include "thinwire/core/tensor_view.hpp"
#include "topk_run.hpp"

/// Where the numbers of a topk run come from.
namespace thinwire::compress {

/// A stretch of one piece of a topk run. It starts at a group.
struct TopkStrip {
  const Piece* piece;
  std::int64_t offset;    ///< of its first element in the piece
  std::int64_t elements;  ///< at most topk_strip_elements

  std::int64_t position() const { return piece->position + offset; }
};
constexpr std::int64_t topk_strip_elements = 4096;

/// Numbers that x is made of: x = fl(fl(source * inv_scale) + residual).
class TopkInput {
 public:
  virtual ~TopkInput() = default;

  /// The numbers of a strip, of dtype(). `buffer` has room for a strip, aligned to 64 bytes; the
  /// result may stand in it. Thread-safe.
  virtual const void* source(const TopkStrip& strip, float* buffer) const = 0;
  virtual DType dtype() const = 0;
  virtual float inv_scale() const = 0;
  /// First element of a piece in the residual; -1 without feedback.
  virtual std::int64_t residual(const Piece& piece) const = 0;
  /// Whether anything of the piece may be sent. What takes no part keeps its residual.
  virtual bool takes_part(const Piece& piece) const = 0;
  /// Whether groups of 64 whose source is all zero take part.
  virtual bool every_group() const = 0;
};

/// A worker's gradients.
class TopkGradients final : public TopkInput {
 public:
  TopkGradients(const ConstTensorView& gradients, float inv_scale)
      : gradients_{gradients}, inv_scale_{inv_scale} {}

  const void* source(const TopkStrip& strip, float*) const override {
    const std::int64_t first = strip.piece->source + strip.offset;
    return static_cast<const std::byte*>(gradients_.data) +
           static_cast<std::size_t>(first) * size_of(gradients_.dtype);
  }
  DType dtype() const override { return gradients_.dtype; }
  float inv_scale() const override { return inv_scale_; }
  std::int64_t residual(const Piece& piece) const override { return piece.residual; }
  bool takes_part(const Piece&) const override { return true; }
  bool every_group() const override { return false; }

 private:
  ConstTensorView gradients_;
  float inv_scale_;
};

/// The same run as N ranks sent it, checked.
struct TopkPeers {
  std::span<const std::byte> slots;
  std::size_t slot_bytes;
  std::size_t offset;  ///< of the run in each slot
  int ranks;
  std::int64_t elements;
  std::int64_t entries;  ///< capacity

  TopkRun run(int rank) const {
    return {slots.subspan(static_cast<std::size_t>(rank) * slot_bytes, slot_bytes).subspan(offset),
            elements, entries};
  }

  /// out[i] = the sum over the ranks, from +0 and in rank order, at position + i; NaN where a
  /// rank's block is not finite.
  void sum(std::int64_t position, std::int64_t elements, float* out) const;
  /// Whether some rank has an entry in [position, position + elements).
  bool has_entry(std::int64_t position, std::int64_t elements) const;
  /// Whether some rank's block is not finite.
  bool non_finite(std::int64_t block) const;
};

/// An owner's mean over the ranks.
class TopkMean final : public TopkInput {
 public:
  /// `touched`: one number a piece of the run, not 0 if a rank has an entry there. Both are
  /// referred to.
  TopkMean(const TopkPeers& peers, const Run& run, std::span<const std::uint8_t> touched)
      : peers_{peers}, run_{run}, touched_{touched} {}

  const void* source(const TopkStrip& strip, float* buffer) const override;
  DType dtype() const override { return DType::f32; }
  float inv_scale() const override { return 1.0f; }
  std::int64_t residual(const Piece& piece) const override { return piece.server; }
  bool takes_part(const Piece& piece) const override {
    return touched_[static_cast<std::size_t>(&piece - run_.pieces.data())] != 0;
  }
  bool every_group() const override { return true; }

 private:
  const TopkPeers& peers_;
  const Run& run_;
  std::span<const std::uint8_t> touched_;
};

}  // namespace thinwire::compress
