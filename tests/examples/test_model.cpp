#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "dataset.hpp"
#include "model.hpp"
#include "optimizer.hpp"
#include "random.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

class ModelGradient : public ::testing::TestWithParam<const char*> {};

// For each parameter: the derivative of the loss along a random direction is the gradient times it.
// The direction leans towards the gradient, where the loss changes most and rounding matters least.
TEST_P(ModelGradient, Backward_MatchesDifferencesAndReportsLastFirst) {
  use_one_blas_thread();
  auto random = make_generator(11, Purpose::shuffling, 0);
  const std::vector<std::uint8_t> labels{3, 0, 9, 3};
  Tensor images;
  images.resize(4, image_pixels);
  for (float& pixel : images.values) pixel = uniform(random, 0.0f, 1.0f);

  auto model = make_model(GetParam(), 5);
  const auto parameters = model.parameters();
  std::vector<std::vector<float>> gradients;
  for (auto* parameter : parameters) gradients.emplace_back(parameter->value.size());
  for (std::size_t p = 0; p < gradients.size(); ++p) parameters[p]->gradient = gradients[p];

  Tensor logits_gradient;
  const auto loss = [&] {
    return softmax_cross_entropy(model.forward(images), labels, logits_gradient);
  };
  loss();
  std::vector<std::size_t> ready;
  model.backward(logits_gradient, [&](std::size_t parameter) { ready.push_back(parameter); });

  for (std::size_t p = 0; p < gradients.size(); ++p) {
    SCOPED_TRACE(parameters[p]->name);
    EXPECT_EQ(ready[p], gradients.size() - 1 - p);
    double square = 0;
    for (const float g : gradients[p]) square += static_cast<double>(g) * g;
    ASSERT_GT(square, 0.0);
    std::vector<float> direction;
    double expected = 0;
    for (const float g : gradients[p]) {
      direction.push_back(g / static_cast<float>(std::sqrt(square)) * uniform(random, 0.0f, 2.0f));
      expected += static_cast<double>(direction.back()) * g;
    }
    const auto kept = parameters[p]->value;
    const auto loss_at = [&](float step) {
      for (std::size_t i = 0; i < kept.size(); ++i) {
        parameters[p]->value[i] = kept[i] + step * direction[i];
      }
      return loss();
    };
    constexpr float step = 2e-3f;
    EXPECT_NEAR((loss_at(step) - loss_at(-step)) / (2 * step), expected, 0.02 * expected);
    parameters[p]->value = kept;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ModelGradient, ::testing::Values("mlp", "cnn"),
                         [](const auto& model) { return std::string{model.param}; });

std::size_t parameters_of(const char* name) {
  const auto model = make_model(name, 1);
  std::size_t sum = 0;
  for (const auto* parameter : model.parameters()) sum += parameter->value.size();
  return sum;
}

TEST(Model, Parameters_HaveTheDocumentedCounts) {
  EXPECT_EQ(parameters_of("mlp"), 235'146u);
  EXPECT_EQ(parameters_of("cnn"), 80'602u);
  EXPECT_THROW(make_model("gpt", 1), thinwire::InvalidArgument);
}

TEST(Model, Initialisation_DependsOnSeedOnly) {
  const auto first = [](std::uint64_t seed) {
    return make_model("mlp", seed).parameters()[0]->value;
  };
  EXPECT_EQ(first(3), first(3));
  EXPECT_NE(first(3), first(4));
}

TEST(SoftmaxCrossEntropy, KnownLogits_GiveKnownLossAndGradient) {
  Tensor logits;
  logits.resize(2, 10);
  logits.values.assign(20, 0.0f);
  logits.row(1)[4] = 1000.0f;
  Tensor gradient;
  const std::vector<std::uint8_t> labels{2, 4};
  EXPECT_NEAR(softmax_cross_entropy(logits, labels, gradient), std::log(10.0) / 2, 1e-6);
  EXPECT_NEAR(gradient.row(0)[2], (0.1 - 1) / 2, 1e-6);
  EXPECT_NEAR(gradient.row(0)[3], 0.1 / 2, 1e-6);
  EXPECT_EQ(gradient.row(1)[4], 0.0f);
  EXPECT_EQ(count_correct(logits, labels), 1);
}

TEST(Sgd, Momentum_AddsWhatWasBefore) {
  for (const float momentum : {0.0f, 0.5f}) {
    std::vector<float> gradient{1.0f};
    Parameter parameter{"p", {1}, {10.0f}, gradient};
    const std::vector<Parameter*> parameters{&parameter};
    Sgd sgd{parameters, momentum};
    sgd.step(1.0f);
    gradient[0] = 2.0f;
    sgd.step(0.5f);
    EXPECT_EQ(parameter.value[0], 10.0f - 1.0f - 0.5f * (momentum * 1.0f + 2.0f));
  }
}

TEST(LearningRate, WarmsUpThenFallsAsCosine) {
  EXPECT_FLOAT_EQ(learning_rate(0, 10, 50, 0.5f), 0.05f);
  EXPECT_FLOAT_EQ(learning_rate(9, 10, 50, 0.5f), 0.5f);
  EXPECT_FLOAT_EQ(learning_rate(10, 10, 50, 0.5f), 0.5f);
  EXPECT_FLOAT_EQ(learning_rate(30, 10, 50, 0.5f), 0.25f);
  EXPECT_LT(learning_rate(49, 10, 50, 0.5f), 0.001f);
}

}  // namespace
}  // namespace fashion
