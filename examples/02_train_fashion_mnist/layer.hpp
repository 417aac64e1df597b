#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace fashion {

/// What training changes. The gradient stands where the trainer wants it: in a bucket.
struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> value;
  std::span<float> gradient;
};

/// One step of the model. forward keeps what backward needs; the input must live until then, and
/// what is returned until the next call. Rows are samples.
class Layer {
 public:
  virtual ~Layer() = default;

  virtual const Tensor& forward(const Tensor& input) = 0;

  /// Takes d loss / d output, writes (does not add) the gradients of the parameters, and returns
  /// d loss / d input, unless `want_input` is false: then what is returned has no meaning.
  virtual const Tensor& backward(const Tensor& output_gradient, bool want_input) = 0;

  virtual std::span<Parameter> parameters() { return {}; }
};

/// y = x Wᵀ + b: the arithmetic that dense and convolution share. parameters[0] is W
/// [outputs x inputs], parameters[1] is b [outputs].
struct Affine {
  /// W uniform with variance 2 / inputs (He et al. 2015), b zero.
  Affine(const std::string& name, std::int64_t inputs, std::int64_t outputs,
         std::mt19937_64& generator);

  /// x: [rows x inputs], y: [rows x outputs].
  void forward(std::int64_t rows, const float* x, float* y) const;
  /// Writes the gradients of W and b; dx [rows x inputs] too, unless it is null.
  void backward(std::int64_t rows, const float* x, const float* dy, float* dx);

  std::int64_t inputs;
  std::int64_t outputs;
  std::vector<Parameter> parameters;
};

class Dense final : public Layer {
 public:
  Dense(const std::string& name, std::int64_t inputs, std::int64_t outputs,
        std::mt19937_64& generator);
  const Tensor& forward(const Tensor& input) override;
  const Tensor& backward(const Tensor& output_gradient, bool want_input) override;
  std::span<Parameter> parameters() override { return affine_.parameters; }

 private:
  Affine affine_;
  const Tensor* input_ = nullptr;
  Tensor output_;
  Tensor input_gradient_;
};

class Relu final : public Layer {
 public:
  const Tensor& forward(const Tensor& input) override;
  const Tensor& backward(const Tensor& output_gradient, bool want_input) override;

 private:
  Tensor output_;
  Tensor input_gradient_;
};

/// Height, width and channels of the images that a layer takes.
struct ImageShape {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;

  std::int64_t size() const { return height * width * channels; }
};

/// Square odd kernel, stride 1, zero padding that keeps height and width: every patch of the image
/// becomes a row ("im2col"), and the rest is Affine.
class Convolution final : public Layer {
 public:
  Convolution(const std::string& name, ImageShape input, std::int64_t filters, std::int64_t kernel,
              std::mt19937_64& generator);
  const Tensor& forward(const Tensor& input) override;
  const Tensor& backward(const Tensor& output_gradient, bool want_input) override;
  std::span<Parameter> parameters() override { return affine_.parameters; }

 private:
  void patches_of(const Tensor& images);
  void add_patches(const Tensor& patches, Tensor& images) const;

  ImageShape shape_;
  std::int64_t kernel_;
  Affine affine_;
  Tensor patches_;  // [batch * height * width x kernel * kernel * channels]
  Tensor patch_gradient_;
  Tensor output_;
  Tensor input_gradient_;
};

/// Largest of each 2 x 2 window, stride 2; height and width are even.
class MaxPool final : public Layer {
 public:
  explicit MaxPool(ImageShape input) : shape_{input} {}
  const Tensor& forward(const Tensor& input) override;
  const Tensor& backward(const Tensor& output_gradient, bool want_input) override;

 private:
  ImageShape shape_;
  std::vector<std::int32_t> winner_;  // index in the input row of each output
  Tensor output_;
  Tensor input_gradient_;
};

}  // namespace fashion
