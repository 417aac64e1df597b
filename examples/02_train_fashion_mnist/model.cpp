#include "model.hpp"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "dataset.hpp"
#include "random.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

using Layers = std::vector<std::unique_ptr<Layer>>;

Layers make_mlp(std::mt19937_64& generator) {
  Layers layers;
  layers.push_back(std::make_unique<Dense>("dense1", image_pixels, 256, generator));
  layers.push_back(std::make_unique<Relu>());
  layers.push_back(std::make_unique<Dense>("dense2", 256, 128, generator));
  layers.push_back(std::make_unique<Relu>());
  layers.push_back(std::make_unique<Dense>("dense3", 128, classes, generator));
  return layers;
}

Layers make_cnn(std::mt19937_64& generator) {
  constexpr std::int64_t side = image_side;
  Layers layers;
  layers.push_back(
      std::make_unique<Convolution>("conv1", ImageShape{side, side, 1}, 16, 3, generator));
  layers.push_back(std::make_unique<Relu>());
  layers.push_back(std::make_unique<MaxPool>(ImageShape{side, side, 16}));
  layers.push_back(
      std::make_unique<Convolution>("conv2", ImageShape{side / 2, side / 2, 16}, 32, 3, generator));
  layers.push_back(std::make_unique<Relu>());
  layers.push_back(std::make_unique<MaxPool>(ImageShape{side / 2, side / 2, 32}));
  layers.push_back(std::make_unique<Dense>("dense1", image_pixels / 16 * 32, 48, generator));
  layers.push_back(std::make_unique<Relu>());
  layers.push_back(std::make_unique<Dense>("dense2", 48, classes, generator));
  return layers;
}

}  // namespace

Model::Model(Layers layers) : layers_{std::move(layers)} {
  for (const auto& layer : layers_) {
    for (auto& parameter : layer->parameters()) parameters_.push_back(&parameter);
  }
}

const Tensor& Model::forward(const Tensor& images) {
  const Tensor* activation = &images;
  for (const auto& layer : layers_) activation = &layer->forward(*activation);
  return *activation;
}

void Model::backward(const Tensor& logits_gradient, const std::function<void(std::size_t)>& ready) {
  const Tensor* gradient = &logits_gradient;
  auto next = parameters_.size();
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    const bool want_input = std::next(layer) != layers_.rend();
    gradient = &(*layer)->backward(*gradient, want_input);
    for (std::size_t i = (*layer)->parameters().size(); i > 0; --i) ready(--next);
  }
}

Model make_model(std::string_view name, std::uint64_t seed) {
  auto generator = make_generator(seed, Purpose::initialisation, 0);
  if (name == "mlp") return Model{make_mlp(generator)};
  if (name == "cnn") return Model{make_cnn(generator)};
  throw thinwire::InvalidArgument{fmt::format("model '{}' is not one of mlp, cnn", name)};
}

double softmax_cross_entropy(const Tensor& logits, std::span<const std::uint8_t> labels,
                             Tensor& gradient) {
  gradient.resize(logits.rows, logits.cols);
  const float share = 1.0f / static_cast<float>(logits.rows);
  double loss = 0;
  for (std::int64_t r = 0; r < logits.rows; ++r) {
    const std::span in{logits.row(r), static_cast<std::size_t>(logits.cols)};
    const std::span out{gradient.row(r), static_cast<std::size_t>(logits.cols)};
    const auto label = labels[static_cast<std::size_t>(r)];
    const float largest = *std::ranges::max_element(in);
    float sum = 0;
    for (std::size_t c = 0; c < in.size(); ++c) sum += out[c] = std::exp(in[c] - largest);
    loss += std::log(sum) - (in[label] - largest);
    for (float& value : out) value *= share / sum;
    out[label] -= share;
  }
  return loss * share;
}

std::int64_t count_correct(const Tensor& logits, std::span<const std::uint8_t> labels) {
  std::int64_t correct = 0;
  for (std::int64_t r = 0; r < logits.rows; ++r) {
    const std::span row{logits.row(r), static_cast<std::size_t>(logits.cols)};
    correct += std::ranges::max_element(row) - row.begin() == labels[static_cast<std::size_t>(r)];
  }
  return correct;
}

void use_one_blas_thread() { openblas_set_num_threads(1); }

}  // namespace fashion
