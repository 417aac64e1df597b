#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "fashion_files.hpp"
#include "report.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

using ::testing::HasSubstr;

TrainOptions options_of(const char* codec, std::uint64_t seed) {
  TrainOptions options;
  options.buckets.codec = thinwire::compress::parse_codec(codec);
  options.seed = seed;
  return options;
}

TrainResult some_result() {
  TrainResult result;
  result.transport = "threads";
  result.ranks = 4;
  result.steps = 100;
  result.buckets = 1;
  result.test_accuracy = 0.875;
  result.steps_per_s = 200;
  result.compute_ms = 2;
  result.codec_ms = 0.5;
  result.payload_bytes_per_step = 1'000'000;
  result.wire_bytes_per_step = 125'000;
  result.plain_wire_bytes_per_step = 1'500'000;
  return result;
}

TEST(Report, Predicted_CodedRun_IsComputeCodecAndTwoPhases) {
  const auto row = row_of(options_of("sign", 1), some_result());
  EXPECT_DOUBLE_EQ(row.predicted_step_ms_1gbps, 2 + 0.5 + 2 * 0.03 + 1.0);
  EXPECT_DOUBLE_EQ(row.predicted_step_ms_10gbps, 2 + 0.5 + 2 * 0.03 + 0.1);
}

TEST(Report, Predicted_PlainRun_IsComputeAndRing) {
  const auto row = row_of(options_of("none", 1), some_result());
  EXPECT_DOUBLE_EQ(row.predicted_step_ms_1gbps, 2 + 6 * 0.03 + 12.0);
}

TEST(Report, Run_WrittenAndRead_IsTheSameRow) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "run.json";
  const auto options = options_of("topk:0.01", 3);
  write_run(file, options, some_result());
  const auto row = read_run(file);
  const auto expected = row_of(options, some_result());
  EXPECT_EQ(row.codec, "topk:0.01");
  EXPECT_EQ(row.seed, 3u);
  EXPECT_EQ(row.test_accuracy, expected.test_accuracy);
  EXPECT_EQ(row.wire_bytes_per_step, expected.wire_bytes_per_step);
  EXPECT_EQ(row.predicted_step_ms_10gbps, expected.predicted_step_ms_10gbps);
}

TEST(Report, Rows_Written_HaveExactlyTheDocumentedKeys) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "rows.json";
  write_rows(file, {row_of(options_of("none", 1), some_result()),
                    row_of(options_of("sign", 1), some_result())});
  std::ifstream in{file};
  const auto rows = nlohmann::json::parse(in);
  ASSERT_EQ(rows.size(), 2u);
  std::set<std::string> keys;
  for (const auto& [key, value] : rows[1].items()) keys.insert(key);
  EXPECT_EQ(keys, (std::set<std::string>{"codec", "seed", "test_accuracy", "steps_per_s",
                                         "payload_bytes_per_step", "wire_bytes_per_step",
                                         "plain_wire_bytes_per_step", "predicted_step_ms_1gbps",
                                         "predicted_step_ms_10gbps"}));
}

TEST(Report, Comparison_SeveralSeeds_OneLineACodecWithTheMean) {
  auto better = some_result();
  better.test_accuracy = 0.885;
  const auto table = comparison({row_of(options_of("sign", 1), some_result()),
                                 row_of(options_of("none", 1), some_result()),
                                 row_of(options_of("sign", 2), better)});
  EXPECT_THAT(table, HasSubstr("sign            2     88.00"));
  EXPECT_THAT(table, HasSubstr("none            1     87.50"));
  EXPECT_LT(table.find("sign"), table.find("none"));
}

TEST(Report, Files_MissingBrokenOrUnwritable_AreNamed) {
  const test::TemporaryFolder folder;
  const auto file = folder.path() / "run.json";
  EXPECT_THROW(read_run(file), thinwire::IoError);
  std::ofstream{file} << "{\"codec\": 3}";
  EXPECT_THROW(read_run(file), thinwire::FormatError);
  EXPECT_THROW(write_rows(folder.path() / "no" / "rows.json", {}), thinwire::IoError);
  EXPECT_THROW(require_writable(folder.path() / "no" / "rows.json"), thinwire::IoError);
  require_writable(file);
  EXPECT_THROW(read_run(file), thinwire::FormatError) << "holds what it held";
}

}  // namespace
}  // namespace fashion
