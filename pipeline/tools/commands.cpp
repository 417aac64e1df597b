#include "commands.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "files.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/draw.hpp"
#include "thinwire/pipeline/fit.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/simulator.hpp"
#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline::tool {
namespace {

Execution execution_of(const ExecutionOptions& options) {
  Execution execution;
  execution.one_lane = options.one_lane;
  execution.prefetch = options.prefetch;
  if (options.host == "in-order") execution.host = Execution::Host::posts_in_order;
  if (options.host == "blocking") execution.host = Execution::Host::blocking;
  return execution;
}

Costs unit_costs(const Schedule& schedule, const CostOptions& options) {
  const double chunks = static_cast<double>(schedule.stages()) / schedule.ranks();
  Costs costs = uniform_costs(schedule.stages(), options.units.at(0) / chunks,
                              options.units.at(1) / chunks, options.units.at(2) / chunks);
  for (StageCost& stage : costs.stages) {
    stage.activation = stage.weight_activation = 1 / chunks;
    stage.send_forward = stage.send_backward = options.transfer;
  }
  return costs;
}

Costs costs_of(const Input& input, const CostOptions& options, const Execution& execution) {
  if (options.profile.empty()) return unit_costs(input.schedule, options);
  const Profile profile = read_profile(options.profile);
  FitRequest request;
  request.samples =
      options.size > 0 ? options.size : (input.plan ? input.plan->microbatch_size : 1);
  request.recompute = options.recompute || (input.plan && input.plan->recompute);
  request.execution = execution;
  Partition bounds = options.bounds;
  if (bounds.empty() && input.plan) bounds = input.plan->bounds;
  if (bounds.empty()) return fit(profile, input.schedule, request).costs;
  return stage_costs(profile, bounds, input.schedule.placement, request.samples, request.recompute);
}

std::string timeline_table(const Timeline& timeline, bool seconds) {
  const double scale = seconds ? 1e3 : 1;
  const std::string unit = seconds ? " ms" : "";
  std::string text = fmt::format("step {:.6g}{}, bubble {:.2f} %\n", timeline.step_time * scale,
                                 unit, 100 * timeline.bubble());
  text += fmt::format("{:>4} {:>11}", "rank", "busy" + unit);
  for (int cause = 0; cause < causes; ++cause) {
    text += fmt::format(" {:>11}", to_string(static_cast<Cause>(cause)));
  }
  text += fmt::format(" {:>13}\n", seconds ? "peak MiB" : "peak");
  for (std::size_t rank = 0; rank < timeline.ranks.size(); ++rank) {
    const RankTimeline& line = timeline.ranks[rank];
    text += fmt::format("{:>4} {:>11.4f}", rank, line.busy * scale);
    for (double wait : line.waits) text += fmt::format(" {:>11.4f}", wait * scale);
    text += fmt::format(" {:>13.3f}\n", line.peak_bytes / (seconds ? 1024.0 * 1024 : 1));
  }
  return text;
}

std::string timeline_json(const Timeline& timeline) {
  nlohmann::ordered_json json = {{"step_time", timeline.step_time},
                                 {"bubble", timeline.bubble()},
                                 {"ranks", nlohmann::ordered_json::array()}};
  for (const RankTimeline& line : timeline.ranks) {
    nlohmann::ordered_json rank = {{"busy", line.busy}};
    for (int cause = 0; cause < causes; ++cause) {
      rank["waits"][std::string{to_string(static_cast<Cause>(cause))}] = line.waits[cause];
    }
    rank["peak_bytes"] = line.peak_bytes;
    rank["peak_activation_bytes"] = line.peak_activation_bytes;
    json["ranks"].push_back(rank);
  }
  return json.dump(1) + "\n";
}

std::string split_table(const Profile& profile, const std::vector<int>& placement,
                        const Partition& bounds) {
  std::string text = fmt::format("{:>5} {:>4} {:>6}  {}\n", "stage", "rank", "layers", "names");
  for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
    const auto first = static_cast<std::size_t>(bounds[s]);
    const auto last = static_cast<std::size_t>(bounds[s + 1]) - 1;
    const std::string& from = profile.layers.at(first).name;
    const std::string& to = profile.layers.at(last).name;
    text += fmt::format("{:>5} {:>4} {:>6}  {}\n", s, placement[s], bounds[s + 1] - bounds[s],
                        first == last ? from : from + " ... " + to);
  }
  return text;
}

/// Cells of one rank that differ; shows the first.
int diff_rank(const Schedule& a, const Schedule& b, std::size_t rank) {
  const auto& left = a.actions[rank];
  const auto& right = b.actions[rank];
  int different = 0;
  for (std::size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    if (i < left.size() && i < right.size() && left[i] == right[i]) continue;
    if (++different > 1) continue;
    fmt::print("rank {}: position {} holds {} and {}\n", rank, i,
               i < left.size() ? to_string(left[i]) : "nothing",
               i < right.size() ? to_string(right[i]) : "nothing");
  }
  if (different > 0) fmt::print("rank {}: {} positions differ\n", rank, different);
  return different;
}

}  // namespace

int list() {
  fmt::print("{:<12} {:<10} {:<24} {}\n", "schedule", "placement", "valid for", "what it is");
  for (const GeneratorInfo& info : generators()) {
    fmt::print("{:<12} {:<10} {:<24} {}\n", info.name, info.placement, info.valid, info.summary);
  }
  fmt::print("{:<12} {:<10} {:<24} {}\n", "greedy", "any", "any (with a profile)",
             "made for unequal costs under a memory cap; see plan");
  return 0;
}

int generate(const GenerateOptions& options) {
  Schedule schedule =
      pipeline::generate(options.name, options.ranks, options.microbatches, options.chunks);
  if (options.lower) schedule = lower(schedule);
  const bool csv =
      options.format.empty() ? options.output.ends_with(".csv") : options.format == "csv";
  const Flavour flavour = options.lower ? Flavour::compute_comms : Flavour::compute_only;
  write_output(options.output, csv ? to_csv(schedule, flavour) : to_text(schedule));
  return 0;
}

int validate(const InputOptions& input_options, const CostOptions& cost_options,
             const ExecutionOptions& execution_options) {
  const Input input = read_input(input_options);
  const Execution execution = execution_of(execution_options);
  std::optional<Costs> costs;
  if (!cost_options.profile.empty()) costs = costs_of(input, cost_options, execution);
  const Verdict verdict = pipeline::validate(input.schedule, execution, costs ? &*costs : nullptr);
  if (!verdict.valid()) {
    fmt::print("refused: {}\n", verdict.defect->message);
    return 1;
  }
  fmt::print("valid: {} ranks, {} stages, {} micro-batches, {}\n", input.schedule.ranks(),
             input.schedule.stages(), input.schedule.microbatches,
             input.schedule.has_transfers() ? "lowered" : "compute only");
  const auto lanes = lanes_of(input.schedule.placement).size();
  if (verdict.one_lane_defect) {
    fmt::print(
        "needs its {} lanes: one issuing thread, NCCL_LAUNCH_ORDER_IMPLICIT=1 and "
        "CUDA_DEVICE_MAX_CONNECTIONS above {}; on one lane a rank: {}\n",
        lanes, lanes, verdict.one_lane_defect->message);
  } else if (!execution.one_lane) {
    fmt::print("free of deadlock on one lane a rank, too\n");
  }
  return 0;
}

int simulate(const InputOptions& input_options, const CostOptions& cost_options,
             const ExecutionOptions& execution_options, bool json) {
  const Input input = read_input(input_options);
  const Execution execution = execution_of(execution_options);
  const Costs costs = costs_of(input, cost_options, execution);
  const Timeline timeline = pipeline::simulate(input.schedule, costs, execution);
  write_output(
      "", json ? timeline_json(timeline) : timeline_table(timeline, !cost_options.profile.empty()));
  return 0;
}

int partition(const PartitionOptions& options, const ExecutionOptions& execution_options) {
  const Profile profile = read_profile(options.profile);
  const GenerateOptions& wanted = options.schedule;
  const Schedule schedule =
      pipeline::generate(wanted.name, wanted.ranks, wanted.microbatches, wanted.chunks);
  FitRequest request;
  request.samples = options.size;
  request.recompute = options.recompute;
  request.execution = execution_of(execution_options);
  if (!options.current.empty()) request.current = read_plan(options.current).bounds;
  const Fit found = fit(profile, schedule, request);
  fmt::print("{}bottleneck {:.6g} ms a micro-batch{}\n{}",
             split_table(profile, schedule.placement, found.bounds), 1e3 * found.bottleneck,
             found.optimal ? ", the smallest there is" : "", timeline_table(found.timeline, true));
  if (options.output.empty()) return 0;
  const Plan plan{profile.model,
                  schedule,
                  found.bounds,
                  options.size,
                  options.recompute,
                  found.timeline.step_time,
                  found.timeline.bubble(),
                  found.timeline.peak_bytes()};
  write_output(options.output, to_json(plan));
  return 0;
}

int plan(const PlanOptions& options, const ExecutionOptions& execution) {
  const Profile profile = read_profile(options.profile);
  PlanRequest request;
  request.ranks = options.ranks;
  request.batch = options.batch;
  if (options.schedules != std::vector<std::string>{"auto"}) request.schedules = options.schedules;
  request.microbatch_sizes = options.sizes;
  request.max_chunks = options.chunks;
  if (options.recompute == "always") request.recompute = Recompute::always;
  if (options.recompute == "where-needed") request.recompute = Recompute::where_needed;
  if (!options.current.empty()) request.current = read_plan(options.current).bounds;
  request.execution = execution_of(execution);
  const PlanReport report = make_plan(profile, request);
  const Plan& best = report.best;
  fmt::print("{} on {} ranks, {} samples a step\n\n{}\ntaken: {}, {} micro-batches of {}{}\n{}",
             profile.model, options.ranks, options.batch, to_table(report, options.rows),
             best.schedule.name, best.schedule.microbatches, best.microbatch_size,
             best.recompute ? ", with recompute" : "",
             split_table(profile, best.schedule.placement, best.bounds));
  if (!options.output.empty()) write_output(options.output, to_json(best));
  return 0;
}

int draw(const InputOptions& input_options, const CostOptions& cost_options,
         const ExecutionOptions& execution_options, const DrawCommandOptions& options) {
  const Input input = read_input(input_options);
  const Execution execution = execution_of(execution_options);
  const Costs costs = costs_of(input, cost_options, execution);
  const Timeline timeline = pipeline::simulate(input.schedule, costs, execution);
  if (options.output.ends_with(".json")) {
    write_output(options.output, to_perfetto(input.schedule, timeline));
    return 0;
  }
  DrawOptions drawing;
  drawing.title = options.title;
  drawing.seconds = !cost_options.profile.empty();
  write_output(options.output, to_svg(input.schedule, timeline, drawing));
  return 0;
}

int diff(const InputOptions& first, const InputOptions& second) {
  const Input a = read_input(first);
  const Input b = read_input(second);
  int different = 0;
  const auto compare = [&](std::string_view what, const auto& mine, const auto& theirs) {
    if (mine == theirs) return;
    ++different;
    fmt::print("{}: {} and {}\n", what, mine, theirs);
  };
  compare("micro-batches", a.schedule.microbatches, b.schedule.microbatches);
  compare("placement", fmt::format("{}", fmt::join(a.schedule.placement, " ")),
          fmt::format("{}", fmt::join(b.schedule.placement, " ")));
  compare("ranks", a.schedule.ranks(), b.schedule.ranks());
  if (a.plan && b.plan) {
    compare("bounds", fmt::format("{}", fmt::join(a.plan->bounds, " ")),
            fmt::format("{}", fmt::join(b.plan->bounds, " ")));
    compare("micro-batch size", a.plan->microbatch_size, b.plan->microbatch_size);
    compare("recompute", a.plan->recompute, b.plan->recompute);
    compare("step time", a.plan->step_time, b.plan->step_time);
  }
  const auto ranks = static_cast<std::size_t>(std::min(a.schedule.ranks(), b.schedule.ranks()));
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    different += diff_rank(a.schedule, b.schedule, rank);
  }
  if (different == 0) fmt::print("equal\n");
  return different == 0 ? 0 : 1;
}

}  // namespace thinwire::pipeline::tool
