#include <algorithm>
#include <array>

#include "reference/run_coder.hpp"
#include "run_layout.hpp"
#include "thinwire/compress/header.hpp"

namespace thinwire::compress::reference {
namespace {

using BlockBuffer = std::array<float, 1024>;

/// The place of one block.
struct Block {
  std::size_t elements;
  std::int64_t source;    ///< of its first element in the gradient tensor
  std::int64_t residual;  ///< of its first element in the worker residual, -1 without feedback
  std::int64_t server;    ///< of its first element in the server residual, -1 without
  std::size_t scale;      ///< byte in the run
  std::size_t values;     ///< byte in the run

  std::span<float> of(BlockBuffer& buffer) const { return {buffer.data(), elements}; }
};

template <typename Body>
void for_each_block(const Run& run, Codec codec, Body body) {
  const std::int64_t block = block_elements(codec);
  for (const Piece& piece : run.pieces) {
    for (std::int64_t offset = 0; offset < piece.elements; offset += block) {
      const std::int64_t index = piece.first_block + offset / block;
      body(Block{.elements = static_cast<std::size_t>(std::min(block, piece.elements - offset)),
                 .source = piece.source + offset,
                 .residual = piece.residual < 0 ? -1 : piece.residual + offset,
                 .server = piece.server < 0 ? -1 : piece.server + offset,
                 .scale = 4 * static_cast<std::size_t>(index),
                 .values = pad16(run.scale_bytes) + piece.value_byte + value_bytes(codec, offset)});
    }
  }
}

class BlockRunCoder final : public RunCoder {
 public:
  BlockRunCoder(const CodecSpec& spec, NonFinite policy)
      : codec_{spec.codec}, coder_{block_codec(spec)}, policy_{policy} {}

  std::uint32_t encode(const Run& run, const ConstTensorView& gradients, float inv_scale,
                       const ResidualMemory& worker, std::span<std::byte> out) override {
    std::uint32_t flags = 0;
    for_each_block(run, codec_, [&](const Block& block) {
      BlockBuffer input;
      BlockBuffer scaled;
      for (std::size_t i = 0; i < block.elements; ++i) {
        input[i] = read(gradients, block.source + static_cast<std::int64_t>(i));
        scaled[i] = input[i] * inv_scale;
      }
      flags |= encode_block(block, block.of(input), block.of(scaled), worker, block.residual, out);
    });
    return flags;
  }

  /// Any bytes decode to something.
  void check(const Run&, Phase, std::span<const std::byte>, int) const override {}

  std::uint32_t reduce_encode(const Run& run, const RunInputs& inputs, const ResidualMemory& server,
                              std::span<std::byte> out) override {
    std::uint32_t flags = 0;
    for_each_block(run, codec_, [&](const Block& block) {
      BlockBuffer mean;
      average(block, inputs, block.of(mean));
      flags |= encode_block(block, block.of(mean), block.of(mean), server, block.server, out);
    });
    return flags;
  }

  void reduce(const Run& run, const RunInputs& inputs, float out_scale, const TensorView& out,
              std::int64_t origin) override {
    for_each_block(run, codec_, [&](const Block& block) {
      BlockBuffer mean;
      average(block, inputs, block.of(mean));
      write_block(block.of(mean), out_scale, out, block.source - origin);
    });
  }

  void decode(const Run& run, std::span<const std::byte> bytes, float out_scale,
              const TensorView& out) override {
    for_each_block(run, codec_, [&](const Block& block) {
      BlockBuffer values;
      decode_block(block, bytes, block.of(values));
      write_block(block.of(values), out_scale, out, block.source);
    });
  }

 private:
  /// Encodes x = fl(y + e). `input` says what takes part: the gradient before the inverse loss
  /// scale on a worker, y itself on an owner. `residual` is the block's place in `memory`, -1
  /// without feedback.
  std::uint32_t encode_block(const Block& block, std::span<const float> input,
                             std::span<const float> y, const ResidualMemory& memory,
                             std::int64_t residual, std::span<std::byte> out) const {
    std::byte* scale = out.data() + block.scale;
    std::byte* values = out.data() + block.values;
    BlockBuffer x;
    std::copy(y.begin(), y.end(), x.begin());
    if (residual >= 0) {
      for (std::size_t i = 0; i < block.elements; ++i)
        x[i] += memory.committed[residual + static_cast<std::int64_t>(i)];
    }

    const LiveGroups live = coder_.live(input);
    const bool finite = coder_.encode(block.of(x), live, scale, values);
    if (!finite && policy_ != NonFinite::zero)
      coder_.encode_non_finite(block.elements, scale, values);

    if (residual >= 0) {
      BlockBuffer sent;
      coder_.decode(scale, values, block.of(sent));
      for (std::size_t i = 0; i < block.elements; ++i) {
        const std::int64_t at = residual + static_cast<std::int64_t>(i);
        memory.next[at] = finite && is_live(live, i) ? x[i] - sent[i] : memory.committed[at];
      }
    }
    if (finite) return 0;
    return policy_ == NonFinite::zero ? flag_zeroed : flag_non_finite;
  }

  void decode_block(const Block& block, std::span<const std::byte> bytes,
                    std::span<float> out) const {
    coder_.decode(bytes.data() + block.scale, bytes.data() + block.values, out);
  }

  /// Ranks in order from +0, then one multiplication.
  void average(const Block& block, const RunInputs& inputs, std::span<float> mean) const {
    std::fill(mean.begin(), mean.end(), 0.0f);
    for (int rank = 0; rank < inputs.ranks; ++rank) {
      BlockBuffer sent;
      decode_block(block, inputs.from(rank), block.of(sent));
      for (std::size_t i = 0; i < block.elements; ++i) mean[i] += sent[i];
    }
    const float one_over_ranks = 1.0f / static_cast<float>(inputs.ranks);
    for (float& value : mean) value *= one_over_ranks;
  }

  static void write_block(std::span<const float> values, float out_scale, const TensorView& out,
                          std::int64_t first) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      write(out, first + static_cast<std::int64_t>(i), values[i] * out_scale);
    }
  }

  Codec codec_;
  const BlockCodec& coder_;
  NonFinite policy_;
};

}  // namespace

std::unique_ptr<RunCoder> make_block_run_coder(const CodecSpec& spec, NonFinite policy) {
  return std::make_unique<BlockRunCoder>(spec, policy);
}

}  // namespace thinwire::compress::reference
