#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "launch_thread.hpp"

namespace thinwire::python {
namespace {

TEST(LaunchThread, MakesCallsInTheOrderGiven) {
  std::vector<int> made;
  LaunchThread thread;
  for (int i = 0; i < 100; ++i) thread.post([&made, i] { made.push_back(i); });
  EXPECT_EQ(thread.wait([&] { return made.size(); }), 100);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(made[i], i);
}

TEST(LaunchThread, ThrowsAPostedFailureOnceAndDropsWhatCameAfterIt) {
  bool made = false;
  LaunchThread thread;
  thread.post([] { throw std::runtime_error{"first"}; });
  thread.post([&] { made = true; });
  EXPECT_THROW(thread.wait([&] { made = true; }), std::runtime_error);
  EXPECT_FALSE(made);
  thread.wait([&] { made = true; });
  EXPECT_TRUE(made);
}

TEST(LaunchThread, FinishesAfterAFailureAndBeforeItEnds) {
  bool made = false;
  {
    LaunchThread thread;
    thread.post([] { throw std::runtime_error{"first"}; });
    thread.finish([&] { made = true; });
  }
  EXPECT_TRUE(made);
}

}  // namespace
}  // namespace thinwire::python
