#include "dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "idx.hpp"
#include "random.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {

using thinwire::FormatError;
using thinwire::InvalidArgument;

Dataset load_dataset(const std::filesystem::path& folder, std::string_view part) {
  const auto images_file = folder / fmt::format("{}-images-idx3-ubyte.gz", part);
  const auto labels_file = folder / fmt::format("{}-labels-idx1-ubyte.gz", part);
  auto images = read_idx(images_file, 3);
  auto labels = read_idx(labels_file, 1);
  if (images.shape[1] != image_side || images.shape[2] != image_side) {
    throw FormatError{fmt::format("'{}' holds images of {} x {}, expected {} x {}",
                                  images_file.string(), images.shape[1], images.shape[2],
                                  image_side, image_side)};
  }
  if (images.shape[0] != labels.shape[0]) {
    throw FormatError{fmt::format("'{}' holds {} images, but '{}' {} labels", images_file.string(),
                                  images.shape[0], labels_file.string(), labels.shape[0])};
  }
  const auto bad = std::ranges::find_if(labels.values, [](auto label) { return label >= classes; });
  if (bad != labels.values.end()) {
    throw FormatError{fmt::format("'{}' gives item {} the class {}; there are {}",
                                  labels_file.string(), bad - labels.values.begin(), *bad,
                                  classes)};
  }
  return {images.shape[0], std::move(images.values), std::move(labels.values)};
}

std::vector<float> mean_image(const Dataset& data) {
  std::vector<std::uint64_t> sums(image_pixels);
  for (std::size_t first = 0; first < data.images.size(); first += image_pixels) {
    for (std::size_t p = 0; p < image_pixels; ++p) sums[p] += data.images[first + p];
  }
  std::vector<float> mean;
  for (const auto sum : sums) {
    mean.push_back(static_cast<float>(static_cast<double>(sum) / static_cast<double>(data.count)));
  }
  return mean;
}

void gather(const Dataset& data, std::span<const float> mean, std::span<const std::uint32_t> items,
            Batch& batch) {
  batch.images.resize(static_cast<std::int64_t>(items.size()), image_pixels);
  batch.labels.resize(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto* pixels = data.images.data() + std::size_t{items[i]} * image_pixels;
    float* out = batch.images.row(static_cast<std::int64_t>(i));
    for (std::size_t p = 0; p < image_pixels; ++p) {
      out[p] = (static_cast<float>(pixels[p]) - mean[p]) * (2.0f / 255.0f);
    }
    batch.labels[i] = data.labels[items[i]];
  }
}

Sampler::Sampler(std::int64_t count, int rank, int ranks, int batch, std::uint64_t seed)
    : rank_{rank},
      ranks_{ranks},
      batch_{static_cast<std::size_t>(batch)},
      seed_{seed},
      steps_per_epoch_{count / (std::int64_t{ranks} * batch)},
      order_(static_cast<std::size_t>(count)) {
  if (steps_per_epoch_ == 0) {
    throw InvalidArgument{fmt::format("{} items are not enough for one step of {} ranks x batch {}",
                                      count, ranks, batch)};
  }
}

void Sampler::start_epoch(int epoch) {
  std::iota(order_.begin(), order_.end(), 0u);
  auto generator = make_generator(seed_, Purpose::shuffling, static_cast<std::uint32_t>(epoch));
  shuffle(generator, order_);
}

std::span<const std::uint32_t> Sampler::items(std::int64_t step) const {
  const auto share = static_cast<std::size_t>(step) * static_cast<std::size_t>(ranks_) +
                     static_cast<std::size_t>(rank_);
  return std::span{order_}.subspan(share * batch_, batch_);
}

std::vector<std::uint32_t> share_of(std::int64_t count, int rank, int ranks) {
  const auto first = static_cast<std::uint32_t>(count * rank / ranks);
  const auto last = static_cast<std::uint32_t>(count * (rank + 1) / ranks);
  std::vector<std::uint32_t> items(last - first);
  std::iota(items.begin(), items.end(), first);
  return items;
}

}  // namespace fashion
