// The wire format does not change by accident: tests/golden holds the bytes of version 1.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "golden/golden_cases.hpp"
#include "host_parity.hpp"

namespace thinwire::compress {
namespace {

std::vector<std::byte> read_file(const std::filesystem::path& path) {
  std::ifstream file{path, std::ios::binary};
  const std::vector<char> chars{std::istreambuf_iterator<char>{file}, {}};
  std::vector<std::byte> bytes(chars.size());
  std::transform(chars.begin(), chars.end(), bytes.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

void expect_golden(const test::CoderFactory& make_coder) {
  const std::filesystem::path directory{THINWIRE_GOLDEN_DIR};
  for (const auto& [name, bytes] : test::golden_files(make_coder)) {
    const auto golden = read_file(directory / name);
    ASSERT_EQ(bytes.size(), golden.size()) << name;
    const auto differs = std::mismatch(bytes.begin(), bytes.end(), golden.begin()).first;
    EXPECT_EQ(differs, bytes.end()) << name << " differs at byte " << differs - bytes.begin();
  }
}

TEST(Golden, ReferenceCoder_EveryCase_WritesTheGoldenBytes) { expect_golden(make_reference_coder); }

TEST(Golden, HostCoder_EveryCaseAndTarget_WritesTheGoldenBytes) {
  const auto pool = std::make_shared<WorkerPool>(2);
  for (const std::string& target : simd_targets()) {
    SCOPED_TRACE(target);
    const test::ForcedTarget forced{target};
    expect_golden([&](const Plan& plan) { return make_host_coder(plan, pool); });
  }
}

TEST(Golden, Directory_HoldsTheCasesAndNoOthers) {
  std::set<std::string> expected;
  for (const auto& [name, bytes] : test::golden_files(make_reference_coder)) expected.insert(name);
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator{THINWIRE_GOLDEN_DIR}) {
    if (entry.path().extension() == ".bin") found.insert(entry.path().filename());
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace thinwire::compress
