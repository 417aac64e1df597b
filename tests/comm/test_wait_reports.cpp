#include <gmock/gmock.h>

#include "thinwire/core/error.hpp"
#include "wait_reports.hpp"

namespace thinwire::comm {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST(WaitReports, Text_ThereAndBack_IsTheSame) {
  const auto report = decode_wait_report(encode({"barrier; of 0 bytes", {3, 0}}), 4);
  EXPECT_EQ(report.operation, "barrier; of 0 bytes");
  EXPECT_EQ(report.peers, (std::vector<int>{3, 0}));
  EXPECT_TRUE(decode_wait_report(encode({"x", {}}), 4).peers.empty());
}

TEST(WaitReports, Text_ThatIsNone_IsRefused) {
  for (const auto* text : {"", "1", "1,2", "4;x", "-1;x", "a;x", "99999999999;x"}) {
    EXPECT_THROW(decode_wait_report(text, 4), FormatError) << text;
  }
}

TEST(WaitReports, Blame_NobodyHeard_NamesWhomWeWaitFor) {
  const WaitReports reports{0, 4};
  EXPECT_EQ(reports.blame({2, 3}).culprit, 2);
}

TEST(WaitReports, Blame_WhoWaits_IsPassedOverForWhomItWaitsFor) {
  WaitReports reports{0, 4};
  reports.take(1, {"barrier", {2}}, 1h);
  reports.take(2, {"barrier", {0, 3}}, 1h);
  const auto blame = reports.blame({1});
  EXPECT_EQ(blame.culprit, 3);
  EXPECT_THAT(blame.text, HasSubstr("rank 1 waits itself for rank 2 in barrier"));
}

TEST(WaitReports, Blame_CycleOfWaits_NamesWhomWeWaitFor) {
  WaitReports reports{0, 2};
  reports.take(1, {"send", {0}}, 1h);
  const auto blame = reports.blame({1});
  EXPECT_EQ(blame.culprit, 1);
  EXPECT_THAT(blame.text, HasSubstr("do all ranks make the same calls?"));
}

TEST(WaitReports, Blame_ReportTakenBackOrTooOld_CountsNoMore) {
  WaitReports reports{0, 4};
  reports.take(1, {"barrier", {3}}, 1h);
  reports.forget(1);
  EXPECT_EQ(reports.blame({1}).culprit, 1);
  reports.take(2, {"barrier", {3}}, 0ms);
  EXPECT_EQ(reports.blame({2}).culprit, 2);
}

TEST(WaitReports, Blame_SeveralSilent_NamesTheOneSilentLongest) {
  WaitReports reports{0, 4};
  reports.take(1, {"barrier", {3}}, 0ms);  // missed its next report: slow, perhaps
  EXPECT_EQ(reports.blame({1, 3}).culprit, 3);
}

TEST(WaitReports, Blame_OneWhoseWaitHasJustEnded_IsNotSilentLongest) {
  WaitReports reports{0, 4};
  reports.take(1, {"barrier", {3}}, 1h);
  reports.forget(1);
  EXPECT_EQ(reports.blame({1, 3}).culprit, 3);
}

}  // namespace
}  // namespace thinwire::comm
