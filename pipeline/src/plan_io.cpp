#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "json_fields.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/planner.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::string_view format_name = "thinwire-plan";
constexpr int version = 1;

}  // namespace

std::string to_json(const Plan& plan) {
  nlohmann::ordered_json json = {
      {"format", format_name},         {"version", version},
      {"model", plan.model},           {"microbatch_size", plan.microbatch_size},
      {"recompute", plan.recompute},   {"bounds", plan.bounds},
      {"step_time", plan.step_time},   {"bubble", plan.bubble},
      {"peak_bytes", plan.peak_bytes}, {"schedule", nlohmann::ordered_json::array()}};
  const std::string text = to_text(plan.schedule);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    json["schedule"].push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return json.dump(1) + "\n";
}

Plan plan_from_json(std::string_view text) {
  const nlohmann::ordered_json json = parse_json(text, "plan");
  Fields fields{json, "plan"};
  fields.require_format(format_name, version);
  Plan plan;
  plan.model = fields.text("model");
  plan.microbatch_size = fields.integer("microbatch_size");
  plan.recompute = fields.flag("recompute");
  plan.bounds = fields.integers("bounds");
  plan.step_time = fields.number("step_time");
  plan.bubble = fields.number("bubble");
  plan.peak_bytes = fields.number("peak_bytes");
  std::string lines;
  for (const std::string& line : fields.texts("schedule")) lines += line + "\n";
  plan.schedule = from_text(lines);
  fields.require_all_known();
  THINWIRE_EXPECTS(
      plan.microbatch_size >= 1, FormatError,
      fmt::format("plan.microbatch_size is {}, but must be >= 1", plan.microbatch_size));
  bool rising = plan.bounds.size() == plan.schedule.placement.size() + 1 && plan.bounds[0] == 0;
  for (std::size_t s = 0; rising && s + 1 < plan.bounds.size(); ++s) {
    rising = plan.bounds[s] < plan.bounds[s + 1];
  }
  THINWIRE_EXPECTS(rising, FormatError,
                   fmt::format("plan.bounds must rise from 0 in {} steps, one a stage, but is [{}]",
                               plan.schedule.stages(), fmt::join(plan.bounds, ", ")));
  return plan;
}

}  // namespace thinwire::pipeline
