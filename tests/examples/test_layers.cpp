#include <gtest/gtest.h>

#include <vector>

#include "layer.hpp"
#include "random.hpp"

namespace fashion {
namespace {

std::mt19937_64 generator() { return make_generator(7, Purpose::initialisation, 0); }

Tensor random_tensor(std::mt19937_64& random, std::int64_t rows, std::int64_t cols) {
  Tensor tensor;
  tensor.resize(rows, cols);
  for (float& value : tensor.values) value = uniform(random, -1.0f, 1.0f);
  return tensor;
}

/// Values that differ from each other by 2 / elements and from 0 by half of that.
Tensor spread_tensor(std::int64_t rows, std::int64_t cols) {
  Tensor tensor;
  tensor.resize(rows, cols);
  std::vector<std::uint32_t> order(tensor.values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
  auto random = generator();
  shuffle(random, order);
  const auto size = static_cast<float>(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    tensor.values[i] = (2.0f * static_cast<float>(order[i]) + 1.0f - size) / size;
  }
  return tensor;
}

/// Compares backward with central differences of loss = sum of weight x output. Every layer is
/// linear in each of its arguments between kinks, so the differences are exact up to rounding as
/// long as `step` crosses no kink of `input`.
void check_gradients(Layer& layer, Tensor input, float step) {
  std::vector<std::vector<float>> gradients;
  for (auto& parameter : layer.parameters()) gradients.emplace_back(parameter.value.size(), 7.0f);
  for (std::size_t p = 0; p < gradients.size(); ++p) layer.parameters()[p].gradient = gradients[p];

  auto random = generator();
  const auto weights = random_tensor(random, input.rows, layer.forward(input).cols);
  const auto loss = [&] {
    const auto& output = layer.forward(input);
    double sum = 0;
    for (std::size_t i = 0; i < output.values.size(); ++i) {
      sum += static_cast<double>(output.values[i]) * weights.values[i];
    }
    return sum;
  };
  const auto difference = [&](float& value) {
    const float kept = value;
    value = kept + step;
    const double above = loss();
    value = kept - step;
    const double below = loss();
    value = kept;
    return (above - below) / (2.0 * step);
  };

  layer.forward(input);
  const Tensor input_gradient = layer.backward(weights, true);
  ASSERT_EQ(input_gradient.rows, input.rows);
  ASSERT_EQ(input_gradient.cols, input.cols);
  for (std::size_t i = 0; i < input.values.size(); ++i) {
    ASSERT_NEAR(input_gradient.values[i], difference(input.values[i]), 1e-3) << "input " << i;
  }
  for (std::size_t p = 0; p < gradients.size(); ++p) {
    auto& parameter = layer.parameters()[p];
    for (std::size_t i = 0; i < parameter.value.size(); ++i) {
      ASSERT_NEAR(gradients[p][i], difference(parameter.value[i]), 1e-3)
          << parameter.name << " " << i;
    }
  }

  const auto with_input = gradients;
  layer.forward(input);
  layer.backward(weights, false);
  EXPECT_EQ(gradients, with_input) << "the parameters' gradients depend on want_input";
}

TEST(Dense, Backward_MatchesDifferences) {
  auto random = generator();
  Dense layer{"dense", 7, 5, random};
  check_gradients(layer, random_tensor(random, 3, 7), 0.5f);
}

TEST(Relu, Backward_MatchesDifferences) {
  Relu layer;
  check_gradients(layer, spread_tensor(4, 10), 0.01f);
}

TEST(Convolution, Backward_MatchesDifferences) {
  auto random = generator();
  Convolution layer{"conv", {5, 4, 3}, 2, 3, random};
  check_gradients(layer, random_tensor(random, 2, 5 * 4 * 3), 0.5f);
}

TEST(MaxPool, Backward_MatchesDifferences) {
  MaxPool layer{{4, 6, 3}};
  check_gradients(layer, spread_tensor(2, 4 * 6 * 3), 0.003f);
}

TEST(Convolution, Forward_MatchesSumOverKernel) {
  constexpr std::int64_t height = 5, width = 4, channels = 3, filters = 2, kernel = 5;
  auto random = generator();
  Convolution layer{"conv", {height, width, channels}, filters, kernel, random};
  const auto input = random_tensor(random, 2, height * width * channels);
  const float* weight = layer.parameters()[0].value.data();
  auto& bias = layer.parameters()[1].value;
  bias = {0.25f, -0.5f};
  const auto& output = layer.forward(input);

  const auto expected = [&](const float* image, std::int64_t y, std::int64_t x, std::int64_t f) {
    double sum = bias[static_cast<std::size_t>(f)];
    for (std::int64_t ky = 0; ky < kernel; ++ky) {
      for (std::int64_t kx = 0; kx < kernel; ++kx) {
        const auto source_y = y + ky - kernel / 2;
        const auto source_x = x + kx - kernel / 2;
        if (source_y < 0 || source_y >= height || source_x < 0 || source_x >= width) continue;
        for (std::int64_t c = 0; c < channels; ++c) {
          sum += weight[((f * kernel + ky) * kernel + kx) * channels + c] *
                 image[(source_y * width + source_x) * channels + c];
        }
      }
    }
    return sum;
  };
  for (std::int64_t sample = 0; sample < input.rows; ++sample) {
    const float* out = output.row(sample);
    for (std::int64_t y = 0; y < height; ++y) {
      for (std::int64_t x = 0; x < width; ++x) {
        for (std::int64_t f = 0; f < filters; ++f) {
          ASSERT_NEAR(*out++, expected(input.row(sample), y, x, f), 1e-5);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fashion
