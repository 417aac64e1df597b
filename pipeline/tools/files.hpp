#pragma once

#include <optional>
#include <string>

#include "commands.hpp"
#include "thinwire/pipeline/planner.hpp"

namespace thinwire::pipeline::tool {

/// A plan without a partition where the file is a schedule alone.
struct Input {
  Schedule schedule;
  std::optional<Plan> plan;
};
Input read_input(const InputOptions& options);
Profile read_profile(const std::string& file);
Plan read_plan(const std::string& file);

/// To standard output if `file` is empty or "-".
void write_output(const std::string& file, const std::string& text);

}  // namespace thinwire::pipeline::tool
