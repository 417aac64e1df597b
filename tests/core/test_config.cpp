#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <string>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire {
namespace {

/// Sets one variable for a scope.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_{name} { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

/// The tests own all variables of thinwire.
class ConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const ConfigVariable& variable : config_variables()) unsetenv(variable.name);
  }
};

TEST_F(ConfigTest, EmptyEnvironment_GivesTheDefaultsOfTheTable) {
  const Config config = read_config();
  const Config defaults;
  EXPECT_EQ(config.log_level, defaults.log_level);
  EXPECT_EQ(config.threads, defaults.threads);
  EXPECT_EQ(config.timeout, defaults.timeout);
  EXPECT_EQ(config.memory_limit, defaults.memory_limit);
  EXPECT_EQ(config.simd, defaults.simd);
  EXPECT_EQ(config.mpi_module, defaults.mpi_module);
}

// The default that the table prints, set by hand, changes nothing.
TEST_F(ConfigTest, DefaultsOfTheTable_SetByHand_AreAccepted) {
  for (const ConfigVariable& variable : config_variables()) {
    const Variable set{variable.name, variable.default_value};
    EXPECT_EQ(read_config().timeout, Config{}.timeout) << variable.name;
    EXPECT_EQ(read_config().threads, Config{}.threads) << variable.name;
  }
}

TEST_F(ConfigTest, Table_EveryRow_IsNamedOnceAndExplained) {
  std::set<std::string> names;
  for (const ConfigVariable& variable : config_variables()) {
    EXPECT_TRUE(names.insert(variable.name).second) << variable.name;
    EXPECT_THAT(variable.name, testing::StartsWith("THINWIRE_"));
    EXPECT_STRNE(variable.meaning, "");
  }
}

TEST_F(ConfigTest, Values_AreTakenUp) {
  const Variable level{"THINWIRE_LOG_LEVEL", "debug"};
  const Variable threads{"THINWIRE_THREADS", "3"};
  const Variable timeout{"THINWIRE_TIMEOUT", "0.25"};
  const Variable limit{"THINWIRE_MEMORY_LIMIT", "123456789012"};
  const Variable simd{"THINWIRE_SIMD", "avx2"};
  const Variable module{"THINWIRE_MPI_MODULE", "/opt/x.so"};
  const Config config = read_config();
  EXPECT_EQ(config.log_level, "debug");
  EXPECT_EQ(config.threads, 3);
  EXPECT_EQ(config.timeout, std::chrono::milliseconds{250});
  EXPECT_EQ(config.memory_limit, 123456789012u);
  EXPECT_EQ(config.simd, "avx2");
  EXPECT_EQ(config.mpi_module, "/opt/x.so");
}

TEST_F(ConfigTest, WrongValues_AreNamed) {
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, const char*>>{{"THINWIRE_LOG_LEVEL", "loud"},
                                                        {"THINWIRE_THREADS", "-1"},
                                                        {"THINWIRE_THREADS", "two"},
                                                        {"THINWIRE_TIMEOUT", "0"},
                                                        {"THINWIRE_TIMEOUT", "nan"},
                                                        {"THINWIRE_TIMEOUT", "60s"},
                                                        {"THINWIRE_MEMORY_LIMIT", "-5"},
                                                        {"THINWIRE_TIMEOOT", "60"}}) {
    const Variable set{name, value};
    try {
      read_config();
      ADD_FAILURE() << name << "=" << value << " was accepted";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(name));
    }
  }
}

}  // namespace
}  // namespace thinwire
