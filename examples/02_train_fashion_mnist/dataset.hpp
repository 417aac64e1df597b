#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "tensor.hpp"

namespace fashion {

constexpr std::int64_t image_side = 28;
constexpr std::int64_t image_pixels = image_side * image_side;
constexpr std::int64_t classes = 10;

/// Grey images of 28 x 28 bytes and the class of each.
struct Dataset {
  std::int64_t count = 0;
  std::vector<std::uint8_t> images;
  std::vector<std::uint8_t> labels;
};

/// Reads `part` ("train" or "t10k") of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) from `folder`.
/// Throws as read_idx, and thinwire::FormatError when images and labels do not belong together.
Dataset load_dataset(const std::filesystem::path& folder, std::string_view part);

/// The mean of all images, in the units of their bytes.
std::vector<float> mean_image(const Dataset& data);

/// A batch as the model takes it.
struct Batch {
  Tensor images;  ///< [items x 784]
  std::vector<std::uint8_t> labels;
};

/// Fills `batch` with the given items of `data`: pixels less those of the mean image, from black to
/// white 2 apart. Centred pixels keep SGD stable at the large learning rates that it likes here.
void gather(const Dataset& data, std::span<const float> mean, std::span<const std::uint32_t> items,
            Batch& batch);

/// Who trains on what. Every epoch has a new random order, equal on all ranks; a step takes the
/// next ranks x batch items of it and rank r the r-th share. The incomplete last step is left out.
class Sampler {
 public:
  /// Throws thinwire::InvalidArgument when `count` items are not enough for one step.
  Sampler(std::int64_t count, int rank, int ranks, int batch, std::uint64_t seed);

  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  void start_epoch(int epoch);
  /// This rank's items of a step of the epoch; valid until the next start_epoch.
  std::span<const std::uint32_t> items(std::int64_t step) const;

 private:
  int rank_;
  int ranks_;
  std::size_t batch_;
  std::uint64_t seed_;
  std::int64_t steps_per_epoch_;
  std::vector<std::uint32_t> order_;
};

/// Rank r's contiguous part of `count` items, for evaluation: all parts together are all items.
std::vector<std::uint32_t> share_of(std::int64_t count, int rank, int ranks);

}  // namespace fashion
