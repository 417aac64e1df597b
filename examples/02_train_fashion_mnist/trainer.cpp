#include "trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "clock.hpp"
#include "dataset.hpp"
#include "learner.hpp"
#include "model.hpp"
#include "optimizer.hpp"
#include "ranks.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::unique_ptr<Learner> make_learner(thinwire::comm::Communicator& communicator,
                                      const TrainOptions& options) {
  return communicator.device() == thinwire::Device::cuda ? make_cuda_learner(communicator, options)
                                                         : make_host_learner(communicator, options);
}

/// One rank's part of a run.
class Trainer {
 public:
  Trainer(thinwire::comm::Communicator& communicator, const TrainOptions& options,
          const Dataset& train_set, const Dataset& test_set, const Progress& progress)
      : communicator_{communicator},
        options_{options},
        train_set_{train_set},
        test_set_{test_set},
        progress_{progress},
        mean_image_{mean_image(train_set)},
        sampler_{train_set.count, communicator.rank(), communicator.size(), options.batch,
                 options.seed},
        learner_{make_learner(communicator, options)} {}

  TrainResult run() {
    double loss = 0;
    double accuracy = 0;
    for (int epoch = 0; epoch < options_.epochs; ++epoch) {
      const double before = train_seconds_;
      loss = mean_over_ranks(communicator_, {run_epoch(epoch)})[0];
      accuracy = test_accuracy();
      const double rate =
          static_cast<double>(sampler_.steps_per_epoch()) / (train_seconds_ - before);
      say(
          fmt::format("epoch {}/{}: loss {:.4f}, test accuracy {:.2f} %, {:.0f} steps/s, {:.0f} "
                      "images/s",
                      epoch + 1, options_.epochs, loss, 100 * accuracy, rate,
                      rate * options_.batch * communicator_.size()));
    }
    require_equal_parameters();
    return result(loss, accuracy);
  }

 private:
  // The mean loss of this rank's batches.
  double run_epoch(int epoch) {
    const auto steps = sampler_.steps_per_epoch();
    sampler_.start_epoch(epoch);
    communicator_.barrier()->wait();
    const auto start = Clock::now();
    auto last_line = start;
    double loss = 0;
    std::int64_t counted = 0;  // steps whose loss is in it
    const auto take_loss = [&](std::int64_t done) {
      loss += learner_->take_loss() * static_cast<double>(done - counted);
      counted = done;
      return loss / static_cast<double>(done);
    };
    for (std::int64_t step = 0; step < steps; ++step) {
      const double before = thread_seconds();
      gather(train_set_, mean_image_, sampler_.items(step), batch_);
      gather_seconds_ += thread_seconds() - before;
      learner_->step(
          batch_, learning_rate(epoch * steps + step, steps, options_.epochs * steps, options_.lr));
      if (step + 1 < steps && seconds_since(last_line) > 5) {
        last_line = Clock::now();
        const double mean = take_loss(step + 1);
        say(fmt::format("epoch {}/{}, step {}/{}: loss {:.4f}", epoch + 1, options_.epochs,
                        step + 1, steps, mean));
      }
    }
    const double mean = take_loss(steps);
    train_seconds_ += seconds_since(start);
    return mean;
  }

  // Every rank takes its share of the test images.
  double test_accuracy() {
    constexpr std::size_t at_once = 250;
    const auto items = share_of(test_set_.count, communicator_.rank(), communicator_.size());
    std::int64_t correct = 0;
    for (std::size_t first = 0; first < items.size(); first += at_once) {
      const auto count = std::min(at_once, items.size() - first);
      gather(test_set_, mean_image_, std::span{items}.subspan(first, count), batch_);
      correct += learner_->count_correct(batch_);
    }
    const auto mean = mean_over_ranks(communicator_, {static_cast<double>(correct)})[0];
    return mean * communicator_.size() / static_cast<double>(test_set_.count);
  }

  void require_equal_parameters() {
    thinwire::comm::Fields fields;
    for (const auto* parameter : learner_->parameters()) {
      const auto bytes = std::as_bytes(std::span{parameter->value});
      fields.emplace_back(parameter->name,
                          fmt::format("{:016x}", thinwire::compress::digest(bytes, 0)));
    }
    thinwire::comm::require_equal(communicator_.control(), "parameters after training", fields,
                                  thinwire::config().timeout);
  }

  TrainResult result(double loss, double accuracy) {
    const auto steps = options_.epochs * sampler_.steps_per_epoch();
    const auto count = static_cast<double>(steps);
    const auto metrics = learner_->metrics();
    const double compute = gather_seconds_ + learner_->compute_seconds();
    const auto times =
        mean_over_ranks(communicator_, {count / train_seconds_, 1000 * compute / count,
                                        metrics.encode_ms / count, metrics.exchange_ms / count,
                                        metrics.decode_ms / count, learner_->codec_ms()});
    const auto per_step = [steps](std::uint64_t bytes) {
      return bytes / static_cast<std::uint64_t>(steps);
    };
    return {.transport = std::string{communicator_.transport()},
            .ranks = communicator_.size(),
            .steps = steps,
            .on_gpu = communicator_.device() == thinwire::Device::cuda,
            .buckets = learner_->buckets(),
            .train_loss = loss,
            .test_accuracy = accuracy,
            .steps_per_s = times[0],
            .compute_ms = times[1],
            .encode_ms = times[2],
            .exchange_ms = times[3],
            .decode_ms = times[4],
            .codec_ms = times[5],
            .payload_bytes_per_step = per_step(metrics.payload_bytes),
            .wire_bytes_per_step = per_step(metrics.wire_bytes),
            .plain_wire_bytes_per_step = per_step(metrics.plain_wire_bytes)};
  }

  void say(const std::string& line) {
    if (communicator_.rank() == 0) progress_(line);
  }

  thinwire::comm::Communicator& communicator_;
  const TrainOptions& options_;
  const Dataset& train_set_;
  const Dataset& test_set_;
  const Progress& progress_;
  std::vector<float> mean_image_;
  Sampler sampler_;
  std::unique_ptr<Learner> learner_;
  Batch batch_;
  double train_seconds_ = 0;
  double gather_seconds_ = 0;
};

}  // namespace

TrainResult train(thinwire::comm::Communicator& communicator, const TrainOptions& options,
                  const Progress& progress) {
  THINWIRE_EXPECTS(options.epochs >= 1, thinwire::InvalidArgument,
                   fmt::format("epochs is {}; at least 1", options.epochs));
  use_one_blas_thread();
  Dataset train_set;
  Dataset test_set;
  together(communicator, [&] {
    train_set = load_dataset(options.data, "train");
    test_set = load_dataset(options.data, "t10k");
  });
  return Trainer{communicator, options, train_set, test_set, progress}.run();
}

}  // namespace fashion
