#include <gmock/gmock.h>

#include "ranks.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm::testing {
namespace {

using ::testing::HasSubstr;

class ControlPlaneTest : public RanksTest {};

TEST_P(ControlPlaneTest, AllGather_AnySizes_GivesEveryRanksTextInOrder) {
  on_all([](Communicator& comm) {
    auto& control = comm.control();
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{5}, std::size_t{300'000}}) {
      const auto size = [&](int rank) { return bytes * static_cast<std::size_t>(rank % 2 + 1); };
      const auto letter = [](int rank) { return static_cast<char>('a' + rank); };
      const auto texts =
          control.all_gather(std::string(size(comm.rank()), letter(comm.rank())), patience);
      ASSERT_EQ(texts.size(), static_cast<std::size_t>(comm.size()));
      for (int r = 0; r < comm.size(); ++r) {
        EXPECT_TRUE(texts[static_cast<std::size_t>(r)] == std::string(size(r), letter(r)));
      }
    }
  });
}

TEST_P(ControlPlaneTest, AllGather_ManyInARow_KeepTheirOrder) {
  on_all([](Communicator& comm) {
    for (int i = 0; i < 50; ++i) {
      const auto texts = comm.control().all_gather(std::to_string(i), patience);
      for (const auto& text : texts) EXPECT_EQ(text, std::to_string(i));
    }
  });
}

TEST_P(ControlPlaneTest, AllGather_TooLarge_IsRefused) {
  on_all([](Communicator& comm) {
    const std::string text(ControlPlane::max_message + 1, 'x');
    EXPECT_THROW(comm.control().all_gather(text, patience), InvalidArgument);
  });
}

TEST_P(ControlPlaneTest, AllGather_WithoutSomeRanks_NamesThem) {
  on_all([](Communicator& comm) {
    if (comm.size() < 3) return;
    if (comm.rank() != 0) {  // only rank 0 comes; the others wait for its verdict
      const auto error = error_of<AbortedError>([&] { comm.barrier()->wait(patience); });
      EXPECT_EQ(error.peer, 1);
      return;
    }
    const auto error =
        error_of<TimeoutError>([&] { comm.control().all_gather("here", short_wait); });
    EXPECT_EQ(error.peer, 1);
    EXPECT_THAT(error.what(), HasSubstr("waiting for rank 1, 2"));
  });
}

TEST_P(ControlPlaneTest, BroadcastFromRoot_GivesTheRootsText) {
  on_all([](Communicator& comm) {
    const auto mine = "value of rank " + std::to_string(comm.rank());
    EXPECT_EQ(broadcast_from_root(comm.control(), mine, patience), "value of rank 0");
  });
}

TEST_P(ControlPlaneTest, RequireEqual_EqualFields_Passes) {
  on_all([](Communicator& comm) {
    require_equal(comm.control(), "bucket 'fc1'", {{"elements", "100"}, {"codec", "sign"}},
                  patience);
    require_equal(comm.control(), "bucket 'fc1'", {}, patience);
  });
}

TEST_P(ControlPlaneTest, RequireEqual_OneRankDiffers_NamesFieldAndBothValuesOnEveryRank) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const int odd = comm.size() - 1;
    const bool is_odd = comm.rank() == odd;
    const auto error = error_of<MismatchError>([&] {
      require_equal(comm.control(), "bucket 'fc1'",
                    {{"elements", "100"}, {"codec", is_odd ? "topk:0.01" : "sign"}, {"x", "y"}},
                    patience);
    });
    EXPECT_EQ(error.field, "codec");
    EXPECT_EQ(error.mine, is_odd ? "topk:0.01" : "sign");
    EXPECT_EQ(error.theirs, is_odd ? "sign" : "topk:0.01");
    EXPECT_EQ(error.peer, is_odd ? 0 : odd);
    EXPECT_THAT(error.what(), HasSubstr("bucket 'fc1'"));
    // A disagreement is an answer, not an abort: the communicator lives on.
    comm.barrier()->wait(patience);
  });
}

TEST_P(ControlPlaneTest, RequireEqual_FieldMissingOnOneRank_IsNamed) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    Fields fields{{"elements", "100"}, {"codec", "sign"}};
    if (comm.rank() == 0) fields.pop_back();
    const auto error =
        error_of<MismatchError>([&] { require_equal(comm.control(), "plan", fields, patience); });
    EXPECT_EQ(error.field, "codec");
    EXPECT_EQ(error.mine, comm.rank() == 0 ? "(none)" : "sign");
    EXPECT_EQ(error.theirs, comm.rank() == 0 ? "sign" : "(none)");
  });
}

TEST_P(ControlPlaneTest, RequireEqual_OtherFieldNames_AreNamed) {
  on_all([](Communicator& comm) {
    if (comm.size() < 2) return;
    const Fields fields{{comm.rank() == 0 ? "codec" : "kodec", "1:2"}};
    const auto error =
        error_of<MismatchError>([&] { require_equal(comm.control(), "plan", fields, patience); });
    EXPECT_THAT(error.what(), HasSubstr("kodec"));
    EXPECT_THAT(error.what(), HasSubstr("codec"));
  });
}

TEST_P(ControlPlaneTest, AbortNotice_TheFirstWinsOnItsRankAndReachesAll) {
  on_all([](Communicator& comm) {
    if (comm.rank() == 0) {
      EXPECT_FALSE(comm.control().abort_notice().has_value());
      comm.control().post_abort({0, "first"});
      comm.control().post_abort({0, "second"});
    } else {
      EXPECT_THROW(comm.control().all_gather("", patience), AbortedError);
    }
    const auto notice = comm.control().abort_notice();
    ASSERT_TRUE(notice.has_value());
    EXPECT_EQ(notice->culprit, 0);
    EXPECT_EQ(notice->reason, "first");
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ControlPlaneTest, ::testing::ValuesIn(rank_counts()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace thinwire::comm::testing
