#include <algorithm>

#include "layer.hpp"

namespace fashion {
namespace {

/// Calls visit(patch offset, image offset, elements) for every run of a sample's patches that is
/// contiguous in the image: one kernel row without the part that the padding covers.
template <typename Visit>
void for_each_run(const ImageShape& shape, std::int64_t kernel, const Visit& visit) {
  const std::int64_t margin = kernel / 2;
  const std::int64_t row_elements = kernel * shape.channels;
  for (std::int64_t y = 0; y < shape.height; ++y) {
    for (std::int64_t x = 0; x < shape.width; ++x) {
      const std::int64_t patch = (y * shape.width + x) * kernel * row_elements;
      const std::int64_t first = std::max<std::int64_t>(0, x - margin);
      const std::int64_t last = std::min(shape.width, x + margin + 1);
      for (std::int64_t k = 0; k < kernel; ++k) {
        const std::int64_t source_y = y + k - margin;
        if (source_y < 0 || source_y >= shape.height) continue;
        visit(patch + k * row_elements + (first - (x - margin)) * shape.channels,
              (source_y * shape.width + first) * shape.channels, (last - first) * shape.channels);
      }
    }
  }
}

}  // namespace

Convolution::Convolution(const std::string& name, ImageShape input, std::int64_t filters,
                         std::int64_t kernel, std::mt19937_64& generator)
    : shape_{input},
      kernel_{kernel},
      affine_{name, kernel * kernel * input.channels, filters, generator} {}

void Convolution::patches_of(const Tensor& images) {
  const std::int64_t positions = shape_.height * shape_.width;
  patches_.resize(images.rows * positions, affine_.inputs);
  std::ranges::fill(patches_.values, 0.0f);
  for (std::int64_t sample = 0; sample < images.rows; ++sample) {
    const float* image = images.row(sample);
    float* patches = patches_.row(sample * positions);
    for_each_run(shape_, kernel_, [&](auto patch, auto source, auto elements) {
      std::copy_n(image + source, elements, patches + patch);
    });
  }
}

void Convolution::add_patches(const Tensor& all_patches, Tensor& images) const {
  const std::int64_t positions = shape_.height * shape_.width;
  for (std::int64_t sample = 0; sample < images.rows; ++sample) {
    float* image = images.row(sample);
    const float* patches = all_patches.row(sample * positions);
    for_each_run(shape_, kernel_, [&](auto patch, auto source, auto elements) {
      for (std::int64_t i = 0; i < elements; ++i) image[source + i] += patches[patch + i];
    });
  }
}

const Tensor& Convolution::forward(const Tensor& input) {
  patches_of(input);
  output_.resize(input.rows, shape_.height * shape_.width * affine_.outputs);
  affine_.forward(patches_.rows, patches_.data(), output_.data());
  return output_;
}

const Tensor& Convolution::backward(const Tensor& output_gradient, bool want_input) {
  if (want_input) patch_gradient_.resize(patches_.rows, patches_.cols);
  affine_.backward(patches_.rows, patches_.data(), output_gradient.data(),
                   want_input ? patch_gradient_.data() : nullptr);
  if (want_input) {
    input_gradient_.resize(output_gradient.rows, shape_.size());
    std::ranges::fill(input_gradient_.values, 0.0f);
    add_patches(patch_gradient_, input_gradient_);
  }
  return input_gradient_;
}

const Tensor& MaxPool::forward(const Tensor& input) {
  const std::int64_t channels = shape_.channels;
  const std::int64_t row = shape_.width * channels;
  output_.resize(input.rows, shape_.size() / 4);
  winner_.resize(output_.values.size());
  auto* winner = winner_.data();
  for (std::int64_t sample = 0; sample < input.rows; ++sample) {
    const float* image = input.row(sample);
    float* out = output_.row(sample);
    for (std::int64_t y = 0; y < shape_.height; y += 2) {
      for (std::int64_t x = 0; x < row; x += 2 * channels) {
        for (std::int64_t c = 0; c < channels; ++c) {
          const std::int64_t corner = y * row + x + c;
          std::int64_t best = corner;
          for (const auto other : {corner + channels, corner + row, corner + row + channels}) {
            if (image[other] > image[best]) best = other;
          }
          *out++ = image[best];
          *winner++ = static_cast<std::int32_t>(best);
        }
      }
    }
  }
  return output_;
}

const Tensor& MaxPool::backward(const Tensor& output_gradient, bool want_input) {
  if (!want_input) return input_gradient_;
  input_gradient_.resize(output_gradient.rows, shape_.size());
  std::ranges::fill(input_gradient_.values, 0.0f);
  for (std::int64_t sample = 0; sample < output_gradient.rows; ++sample) {
    const float* gradient = output_gradient.row(sample);
    const std::int32_t* winner = winner_.data() + sample * output_gradient.cols;
    float* image = input_gradient_.row(sample);
    for (std::int64_t i = 0; i < output_gradient.cols; ++i) image[winner[i]] += gradient[i];
  }
  return input_gradient_;
}

}  // namespace fashion
