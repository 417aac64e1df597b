#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <vector>

#include "fashion_files.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"
#include "trainer.hpp"

namespace fashion {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using thinwire::comm::Communicator;

class Training : public ::testing::Test {
 protected:
  Training() {
    test::write_dataset(folder_.path(), 320);
    options_.data = folder_.path();
    options_.batch = 16;
    options_.lr = 0.1f;
    options_.epochs = 4;
  }

  /// The results of all ranks.
  std::vector<TrainResult> run(int ranks, const std::string& codec) {
    options_.buckets.codec = thinwire::compress::parse_codec(codec);
    std::vector<TrainResult> results(static_cast<std::size_t>(ranks));
    thinwire::comm::run_ranks(ranks, [&](Communicator& communicator) {
      results[static_cast<std::size_t>(communicator.rank())] =
          train(communicator, options_, [](std::string_view) {});
    });
    return results;
  }

  test::TemporaryFolder folder_;
  TrainOptions options_;
};

class TrainingCodec : public Training, public ::testing::WithParamInterface<const char*> {};

TEST_P(TrainingCodec, Train_EasyImages_LearnsThemOnEveryRank) {
  const auto results = run(2, GetParam());
  EXPECT_GT(results[0].test_accuracy, 0.95);
  EXPECT_EQ(results[0].test_accuracy, results[1].test_accuracy);
  EXPECT_EQ(results[0].train_loss, results[1].train_loss);
  EXPECT_EQ(results[0].steps, 40);
  EXPECT_EQ(results[0].plain_wire_bytes_per_step, 235'146u * 4);
}

INSTANTIATE_TEST_SUITE_P(Codecs, TrainingCodec,
                         ::testing::Values("none", "bf16", "int4", "sign", "topk:0.01"));

TEST_F(Training, OneRankOrTwo_SameBatches_SameLossToRounding) {
  options_.batch = 32;
  const auto one = run(1, "none");
  options_.batch = 16;
  const auto two = run(2, "none");
  EXPECT_NEAR(one[0].train_loss, two[0].train_loss, 1e-4 * one[0].train_loss);
}

// A sign block never crosses a parameter, so how parameters share buckets changes nothing.
TEST_F(Training, Sign_SmallBuckets_SameResultInMoreExchanges) {
  const auto one_bucket = run(2, "sign");
  options_.buckets.cap_bytes = 200'000;
  const auto small_buckets = run(2, "sign");
  EXPECT_EQ(one_bucket[0].buckets, 1u);
  EXPECT_EQ(small_buckets[0].buckets, 2u);
  EXPECT_EQ(one_bucket[0].train_loss, small_buckets[0].train_loss);
  EXPECT_EQ(one_bucket[0].test_accuracy, small_buckets[0].test_accuracy);
}

TEST_F(Training, OneRankWithoutData_EveryRankThrowsNamingItAndTheFile) {
  std::mutex mutex;
  std::vector<std::string> messages(3);
  const auto body = [&](Communicator& communicator) {
    auto options = options_;
    if (communicator.rank() == 1) options.data = folder_.path() / "nowhere";
    try {
      train(communicator, options, [](std::string_view) {});
    } catch (const thinwire::Error& error) {
      const std::lock_guard lock{mutex};
      messages[static_cast<std::size_t>(communicator.rank())] = error.what();
      throw;
    }
  };
  EXPECT_THROW(thinwire::comm::run_ranks(3, body), thinwire::IoError);
  EXPECT_THAT(messages[1], HasSubstr("nowhere/train-images"));
  for (const int rank : {0, 2}) {
    EXPECT_THAT(messages[static_cast<std::size_t>(rank)],
                AllOf(HasSubstr("rank 1"), HasSubstr("nowhere/train-images")));
  }
}

TEST_F(Training, RanksWithOtherParameters_EveryRankThrowsMismatch) {
  int mismatches = 0;
  std::mutex mutex;
  const auto body = [&](Communicator& communicator) {
    auto options = options_;
    options.seed = communicator.rank() == 1 ? 2 : 1;
    try {
      train(communicator, options, [](std::string_view) {});
    } catch (const thinwire::MismatchError& error) {
      const std::lock_guard lock{mutex};
      ++mismatches;
      EXPECT_THAT(error.what(), HasSubstr("dense1.weight"));
      throw;
    }
  };
  EXPECT_THROW(thinwire::comm::run_ranks(2, body), thinwire::MismatchError);
  EXPECT_EQ(mismatches, 2);
}

}  // namespace
}  // namespace fashion
