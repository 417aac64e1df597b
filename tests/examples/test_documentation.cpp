#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "thinwire/core/config.hpp"

namespace thinwire {
namespace {

// docs/tuning.md has a row for every variable, with the default and meaning of the code, and for no
// other.
TEST(TuningPage, Variables_AreThoseOfTheCode) {
  std::ifstream in{THINWIRE_TUNING_PAGE};
  const std::string page{std::istreambuf_iterator<char>{in}, {}};
  std::string expected;
  for (const auto& variable : config_variables()) {
    const std::string value{variable.default_value};
    expected += "| `" + std::string{variable.name} + "` | " +
                (value.empty() ? "" : "`" + value + "`") + " | " + variable.meaning + " |\n";
  }
  EXPECT_NE(page.find("|---|---|---|\n" + expected + "\n"), std::string::npos)
      << "docs/tuning.md should hold exactly this table:\n"
      << expected;
}

}  // namespace
}  // namespace thinwire
