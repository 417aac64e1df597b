#include <algorithm>
#include <utility>
#include <vector>

#include "clock.hpp"
#include "learner.hpp"
#include "model.hpp"
#include "optimizer.hpp"
#include "trainer.hpp"

namespace fashion {
namespace {

class HostLearner final : public Learner {
 public:
  HostLearner(thinwire::comm::Communicator& communicator, const TrainOptions& options)
      : model_{make_model(options.model, options.seed)},
        buckets_{communicator, model_.parameters(), options.buckets},
        optimizer_{model_.parameters(), options.momentum} {}

  void step(const Batch& batch, float rate) override {
    double start = thread_seconds();
    const auto& logits = model_.forward(batch.images);
    loss_ += softmax_cross_entropy(logits, batch.labels, logits_gradient_);
    ++steps_;
    model_.backward(logits_gradient_, [this](std::size_t parameter) { buckets_.ready(parameter); });
    compute_seconds_ += thread_seconds() - start;

    buckets_.end_step();
    const auto metrics = buckets_.metrics();
    const double codec_ms = metrics.encode_ms + metrics.decode_ms;
    step_codec_ms_.push_back(codec_ms - codec_ms_);
    codec_ms_ = codec_ms;

    start = thread_seconds();
    optimizer_.step(rate);
    compute_seconds_ += thread_seconds() - start;
  }

  double take_loss() override {
    return std::exchange(loss_, 0.0) / static_cast<double>(std::exchange(steps_, 0));
  }

  std::int64_t count_correct(const Batch& batch) override {
    return fashion::count_correct(model_.forward(batch.images), batch.labels);
  }

  std::span<Parameter* const> parameters() override { return model_.parameters(); }
  std::size_t buckets() const override { return buckets_.count(); }
  thinwire::comm::CallMetrics metrics() const override { return buckets_.metrics(); }
  double compute_seconds() const override { return compute_seconds_; }

  double codec_ms() const override {
    std::vector<double> values = step_codec_ms_;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::ranges::nth_element(values, middle);
    return *middle;
  }

 private:
  Model model_;
  GradientBuckets buckets_;
  Sgd optimizer_;
  Tensor logits_gradient_;
  double loss_ = 0;
  std::int64_t steps_ = 0;  // since the loss was taken
  double compute_seconds_ = 0;
  double codec_ms_ = 0;                // of all steps so far
  std::vector<double> step_codec_ms_;  // of each
};

}  // namespace

std::unique_ptr<Learner> make_host_learner(thinwire::comm::Communicator& communicator,
                                           const TrainOptions& options) {
  return std::make_unique<HostLearner>(communicator, options);
}

}  // namespace fashion
