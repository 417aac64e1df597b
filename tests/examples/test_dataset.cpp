#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <set>

#include "dataset.hpp"
#include "fashion_files.hpp"
#include "idx.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

using test::Bytes;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using thinwire::FormatError;
using thinwire::IoError;

template <typename Error, typename Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

class Idx : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "some-idx.gz";
};

TEST_F(Idx, Read_GzippedArray_GivesShapeAndValues) {
  const Bytes values{1, 2, 3, 4, 5, 255};
  test::write_gzip(file_, test::idx_bytes({3, 2}, values));
  const auto array = read_idx(file_, 2);
  EXPECT_EQ(array.shape, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(array.values, values);
}

TEST_F(Idx, Read_NoFile_NamesItAndThePackage) {
  EXPECT_THAT(message_of<IoError>([&] { read_idx(file_, 1); }),
              AllOf(HasSubstr(file_.string()), HasSubstr("dataset-fashion-mnist")));
}

TEST_F(Idx, Read_Folder_NamesIt) {
  EXPECT_THAT(message_of<IoError>([&] { read_idx(folder_.path(), 1); }),
              HasSubstr(folder_.path().string()));
}

TEST_F(Idx, Read_WrongMagic_NamesBoth) {
  test::write_gzip(file_, test::idx_bytes({3}, {1, 2, 3}));
  EXPECT_THAT(message_of<FormatError>([&] { read_idx(file_, 3); }),
              AllOf(HasSubstr(file_.string()), HasSubstr("00000801"), HasSubstr("00000803")));
}

TEST_F(Idx, Read_FewerValuesThanSizesSay_NamesBoth) {
  test::write_gzip(file_, test::idx_bytes({10}, {1, 2, 3}));
  EXPECT_THAT(message_of<FormatError>([&] { read_idx(file_, 1); }),
              AllOf(HasSubstr(file_.string()), HasSubstr("truncated"), HasSubstr("3 of 10")));
}

TEST_F(Idx, Read_MoreValuesThanSizesSay_Throws) {
  test::write_gzip(file_, test::idx_bytes({2}, {1, 2, 3}));
  EXPECT_THAT(message_of<FormatError>([&] { read_idx(file_, 1); }), HasSubstr("goes on after"));
}

TEST_F(Idx, Read_GzipStreamCutAnywhere_Throws) {
  Bytes values(5000);
  std::iota(values.begin(), values.end(), std::uint8_t{0});
  test::write_gzip(file_, test::idx_bytes({5000}, values));
  for (auto size = std::filesystem::file_size(file_); size > 7; size -= 7) {
    std::filesystem::resize_file(file_, size - 7);
    EXPECT_THAT(message_of<FormatError>([&] { read_idx(file_, 1); }), HasSubstr(file_.string()));
  }
}

TEST_F(Idx, Read_SizesBeyondMemory_Throws) {
  test::write_gzip(file_, test::idx_bytes({0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu}, {1}));
  EXPECT_THAT(message_of<FormatError>([&] { read_idx(file_, 3); }), HasSubstr("4294967295"));
}

TEST_F(Idx, Read_EmptyFile_Throws) {
  std::ofstream{file_};
  EXPECT_THAT(message_of<FormatError>([&] { read_idx(file_, 1); }), HasSubstr("truncated"));
}

TEST(Dataset, Load_GoodFiles_GiveEveryItem) {
  const TemporaryFolder folder;
  test::write_dataset(folder.path(), 25);
  const auto data = load_dataset(folder.path(), "t10k");
  EXPECT_EQ(data.count, 25);
  EXPECT_EQ(data.images.size(), 25u * 28 * 28);
  EXPECT_EQ(data.labels[13], 3);
}

TEST(Dataset, Load_CountsDiffer_NamesBothFilesAndCounts) {
  const TemporaryFolder folder;
  test::write_dataset(folder.path(), 25);
  test::write_gzip(folder.path() / "train-labels-idx1-ubyte.gz", test::idx_bytes({24}, Bytes(24)));
  EXPECT_THAT(message_of<FormatError>([&] { load_dataset(folder.path(), "train"); }),
              AllOf(HasSubstr("train-images"), HasSubstr("25"), HasSubstr("train-labels"),
                    HasSubstr("24")));
}

TEST(Dataset, Load_LabelOutOfRange_NamesItemAndLabel) {
  const TemporaryFolder folder;
  test::write_dataset(folder.path(), 3);
  test::write_gzip(folder.path() / "train-labels-idx1-ubyte.gz", test::idx_bytes({3}, {0, 9, 10}));
  EXPECT_THAT(message_of<FormatError>([&] { load_dataset(folder.path(), "train"); }),
              AllOf(HasSubstr("item 2"), HasSubstr("class 10")));
}

TEST(Dataset, Load_OtherImageSize_NamesIt) {
  const TemporaryFolder folder;
  test::write_dataset(folder.path(), 3);
  test::write_gzip(folder.path() / "train-images-idx3-ubyte.gz",
                   test::idx_bytes({3, 2, 2}, Bytes(12)));
  EXPECT_THAT(message_of<FormatError>([&] { load_dataset(folder.path(), "train"); }),
              HasSubstr("2 x 2"));
}

TEST(Dataset, Gather_Items_CentresPixels) {
  Dataset data{2, Bytes(2 * image_pixels), {4, 7}};
  data.images[image_pixels] = 255;
  data.images[1] = data.images[image_pixels + 1] = 100;
  const auto mean = mean_image(data);
  EXPECT_FLOAT_EQ(mean[0], 127.5f);
  EXPECT_FLOAT_EQ(mean[1], 100.0f);
  Batch batch;
  const std::vector<std::uint32_t> items{1, 0};
  gather(data, mean, items, batch);
  EXPECT_EQ(batch.images.rows, 2);
  EXPECT_FLOAT_EQ(batch.images.row(0)[0], 1.0f);
  EXPECT_FLOAT_EQ(batch.images.row(1)[0], -1.0f);
  EXPECT_EQ(batch.images.row(1)[1], 0.0f);
  EXPECT_EQ(batch.labels, (Bytes{7, 4}));
}

TEST(Sampler, Epoch_AllRanks_TakeEveryItemAtMostOnce) {
  constexpr int ranks = 3;
  std::set<std::uint32_t> seen;
  std::int64_t taken = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    Sampler sampler{100, rank, ranks, 8, 1};
    sampler.start_epoch(0);
    for (std::int64_t step = 0; step < sampler.steps_per_epoch(); ++step) {
      const auto items = sampler.items(step);
      seen.insert(items.begin(), items.end());
      taken += static_cast<std::int64_t>(items.size());
    }
  }
  EXPECT_EQ(taken, 96);
  EXPECT_EQ(seen.size(), 96u);
  EXPECT_LT(*seen.rbegin(), 100u);
}

TEST(Sampler, Order_DependsOnSeedAndEpochOnly) {
  const auto order = [](std::uint64_t seed, int epoch) {
    Sampler sampler{64, 0, 1, 64, seed};
    sampler.start_epoch(epoch);
    const auto items = sampler.items(0);
    return std::vector<std::uint32_t>(items.begin(), items.end());
  };
  EXPECT_EQ(order(1, 2), order(1, 2));
  EXPECT_NE(order(1, 2), order(1, 3));
  EXPECT_NE(order(1, 2), order(2, 2));
}

TEST(Sampler, TooFewItems_Throws) {
  EXPECT_THROW((Sampler{10, 0, 4, 8, 1}), thinwire::InvalidArgument);
}

TEST(ShareOf, AllRanks_TakeEveryItemOnce) {
  std::vector<std::uint32_t> all;
  for (int rank = 0; rank < 3; ++rank) {
    const auto share = share_of(10, rank, 3);
    all.insert(all.end(), share.begin(), share.end());
  }
  EXPECT_EQ(all, (std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

}  // namespace
}  // namespace fashion
