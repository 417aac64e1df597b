#include <algorithm>
#include <limits>
#include <vector>

#include "reference/run_coder.hpp"
#include "thinwire/compress/header.hpp"
#include "topk_run.hpp"

namespace thinwire::compress::reference {
namespace {

bool is_non_finite(float x) { return magnitude_bits(x) >= overflow_bits(Codec::none); }

bool overflows(float x) { return magnitude_bits(x) >= overflow_bits(Codec::topk); }

TopkRun view(const Run& run, Phase phase, std::span<const std::byte> bytes) {
  return {bytes, run.elements, phase == Phase::reduce ? run.entries : run.entries_out};
}

/// Calls body(position in the run, value) for every entry.
template <typename Body>
void for_each_entry(const TopkRun& run, Body body) {
  for (std::int64_t block = 0; block < run.parts().blocks; ++block) {
    for (std::int64_t entry = run.first(block); entry < run.first(block + 1); ++entry) {
      body(static_cast<std::size_t>(block * topk_block + run.local(entry)), run.value(entry));
    }
  }
}

/// Calls body(piece, offset in the piece, position in the run) for every element.
template <typename Body>
void for_each_element(const Run& run, Body body) {
  for (const Piece& piece : run.pieces) {
    for (std::int64_t i = 0; i < piece.elements; ++i) {
      body(piece, i, static_cast<std::size_t>(piece.position + i));
    }
  }
}

/// Adds entries where they belong, and NaN all over a non-finite block.
void add(const TopkRun& run, std::span<float> sum) {
  for (std::int64_t block = 0; block < run.parts().blocks; ++block) {
    if (!run.non_finite(block)) continue;
    const auto from = static_cast<std::size_t>(block * topk_block);
    const auto count = static_cast<std::size_t>(run.block_elements(block));
    for (float& value : sum.subspan(from, count)) value += std::numeric_limits<float>::quiet_NaN();
  }
  for_each_entry(run, [&](std::size_t position, float value) { sum[position] += value; });
}

/// Works on one run at a time, spread out over its positions.
class TopkRunCoder final : public RunCoder {
 public:
  TopkRunCoder(NonFinite policy, std::int64_t most_elements) : policy_{policy} {
    const auto size = static_cast<std::size_t>(most_elements);
    x_.resize(size);
    residual_.resize(size);
    takes_part_.resize(size);
    order_.resize(size);
  }

  std::uint32_t encode(const Run& run, const ConstTensorView& gradients, float inv_scale,
                       const ResidualMemory& worker, std::span<std::byte> out) override {
    for (const Piece& piece : run.pieces) take_part_by_group(piece, gradients);
    for_each_element(run, [&](const Piece& piece, std::int64_t i, std::size_t position) {
      x_[position] = read(gradients, piece.source + i) * inv_scale;
    });
    add_residual(run, worker, &Piece::residual);
    const std::uint32_t flags = select(run.elements, run.entries, out);
    store_residual(run, worker, &Piece::residual);
    return flags;
  }

  void check(const Run& run, Phase phase, std::span<const std::byte> bytes,
             int peer) const override {
    view(run, phase, bytes).check(peer);
  }

  std::uint32_t reduce_encode(const Run& run, const RunInputs& inputs, const ResidualMemory& server,
                              std::span<std::byte> out) override {
    average(run, inputs);
    take_part_by_span(run, inputs);
    add_residual(run, server, &Piece::server);
    const std::uint32_t flags = select(run.elements, run.entries_out, out);
    store_residual(run, server, &Piece::server);
    return flags;
  }

  void reduce(const Run& run, const RunInputs& inputs, float out_scale, const TensorView& out,
              std::int64_t origin) override {
    average(run, inputs);
    write_x(run, out_scale, out, origin);
  }

  void decode(const Run& run, std::span<const std::byte> bytes, float out_scale,
              const TensorView& out) override {
    clear_x(run);
    add(view(run, Phase::gather, bytes), x_);
    write_x(run, out_scale, out, 0);
  }

 private:
  void clear_x(const Run& run) { std::fill_n(x_.begin(), run.elements, 0.0f); }

  void write_x(const Run& run, float out_scale, const TensorView& out, std::int64_t origin) const {
    for_each_element(run, [&](const Piece& piece, std::int64_t i, std::size_t position) {
      write(out, piece.source + i - origin, x_[position] * out_scale);
    });
  }

  /// x = the mean of the ranks.
  void average(const Run& run, const RunInputs& inputs) {
    clear_x(run);
    for (int rank = 0; rank < inputs.ranks; ++rank) {
      add(view(run, Phase::reduce, inputs.from(rank)), x_);
    }
    const float one_over_ranks = 1.0f / static_cast<float>(inputs.ranks);
    for (std::int64_t i = 0; i < run.elements; ++i)
      x_[static_cast<std::size_t>(i)] *= one_over_ranks;
  }

  /// A worker sends nothing from a group of 64 whose gradients are all zero.
  void take_part_by_group(const Piece& piece, const ConstTensorView& gradients) {
    for (std::int64_t first = 0; first < piece.elements; first += group_elements) {
      const std::int64_t count = std::min(group_elements, piece.elements - first);
      std::uint8_t live = 0;
      for (std::int64_t i = first; i < first + count; ++i) {
        if (read(gradients, piece.source + i) != 0.0f) live = 1;
      }
      std::fill_n(takes_part_.begin() + piece.position + first, count, live);
    }
  }

  /// An owner sends from the spans that got an entry. A NaN or Inf in x always takes part, so that
  /// it goes on.
  void take_part_by_span(const Run& run, const RunInputs& inputs) {
    std::fill_n(takes_part_.begin(), run.elements, std::uint8_t{0});
    for (int rank = 0; rank < inputs.ranks; ++rank) {
      for_each_entry(view(run, Phase::reduce, inputs.from(rank)),
                     [&](std::size_t position, float) { takes_part_[position] = 1; });
    }
    for (const Piece& piece : run.pieces) {
      const auto first = takes_part_.begin() + piece.position;
      std::fill_n(first, piece.elements, *std::max_element(first, first + piece.elements));
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(run.elements); ++i) {
      if (is_non_finite(x_[i])) takes_part_[i] = 1;
    }
  }

  /// x = fl(x + e) with feedback; without, x stays.
  void add_residual(const Run& run, const ResidualMemory& memory, std::int64_t Piece::*place) {
    for_each_element(run, [&](const Piece& piece, std::int64_t i, std::size_t position) {
      if (piece.*place < 0) return;
      residual_[position] = memory.committed[piece.*place + i];
      x_[position] += residual_[position];
    });
  }

  void store_residual(const Run& run, const ResidualMemory& memory,
                      std::int64_t Piece::*place) const {
    for_each_element(run, [&](const Piece& piece, std::int64_t i, std::size_t position) {
      if (piece.*place >= 0) memory.next[piece.*place + i] = residual_[position];
    });
  }

  /// Writes the `capacity` largest of x that take part to `out` and what is left to residual_.
  std::uint32_t select(std::int64_t elements, std::int64_t capacity, std::span<std::byte> out) {
    const TopkParts parts{elements, capacity};
    std::uint32_t flags = 0;

    // Keys: not zero, taking part, and in a block that is finite as a whole.
    std::size_t keys = 0;
    for (std::int64_t block = 0; block < parts.blocks; ++block) {
      const auto from = static_cast<std::size_t>(block * topk_block);
      const auto to = static_cast<std::size_t>(std::min(elements, (block + 1) * topk_block));
      bool finite = true;
      for (std::size_t i = from; i < to; ++i) {
        if (takes_part_[i] != 0 && overflows(x_[i])) finite = false;
      }
      if (!finite) {
        flags |= policy_ == NonFinite::zero ? flag_zeroed : flag_non_finite;
        if (policy_ != NonFinite::zero)
          store(&out[4 * static_cast<std::size_t>(block)], topk_non_finite);
        continue;
      }
      for (std::size_t i = from; i < to; ++i) {
        if (takes_part_[i] != 0 && x_[i] != 0.0f) order_[keys++] = i;
      }
    }

    // The largest by magnitude, ties by lower index; then in the order of their indices.
    const std::size_t entries = std::min(keys, static_cast<std::size_t>(capacity));
    const auto begin = order_.begin();
    const auto end_of = [&](std::size_t count) {
      return begin + static_cast<std::ptrdiff_t>(count);
    };
    std::nth_element(begin, end_of(entries), end_of(keys), [&](std::size_t a, std::size_t b) {
      const std::uint32_t of_a = magnitude_bits(x_[a]);
      const std::uint32_t of_b = magnitude_bits(x_[b]);
      return of_a != of_b ? of_a > of_b : a < b;
    });
    std::sort(begin, end_of(entries));

    // What is not sent stays: x, or the old residual where x takes no part or is NaN or Inf.
    for (std::size_t i = 0; i < static_cast<std::size_t>(elements); ++i) {
      if (takes_part_[i] != 0 && !is_non_finite(x_[i])) residual_[i] = x_[i];
    }

    std::size_t entry = 0;
    for (std::int64_t block = 0; block <= parts.blocks; ++block) {
      std::byte* first = &out[4 * static_cast<std::size_t>(block)];
      store(first, load<std::uint32_t>(first) | static_cast<std::uint32_t>(entry));
      const auto end = static_cast<std::size_t>((block + 1) * topk_block);
      for (; entry < entries && order_[entry] < end; ++entry) {
        const std::size_t position = order_[entry];
        const std::uint16_t value = bf16_bits(x_[position]);
        store(&out[parts.local + 2 * entry], static_cast<std::uint16_t>(position % topk_block));
        store(&out[parts.value + 2 * entry], value);
        residual_[position] = x_[position] - from_bf16_bits(value);
      }
    }
    return flags;
  }

  NonFinite policy_;
  std::vector<float> x_;
  std::vector<float> residual_;
  std::vector<std::uint8_t> takes_part_;
  std::vector<std::size_t> order_;
};

}  // namespace

std::unique_ptr<RunCoder> make_topk_run_coder(NonFinite policy, std::int64_t most_elements) {
  return std::make_unique<TopkRunCoder>(policy, most_elements);
}

}  // namespace thinwire::compress::reference
