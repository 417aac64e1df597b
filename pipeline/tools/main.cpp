// thinwire-pipeline: pipeline schedules, their proof, their price and their picture.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "commands.hpp"
#include "thinwire/core/error.hpp"

using namespace thinwire::pipeline;

namespace {

void add_input(CLI::App* command, tool::InputOptions& input) {
  command
      ->add_option("file", input.file,
                   "schedule (.csv as torch writes it, else text) or plan (.json)")
      ->required();
  command
      ->add_option("--dialect", input.dialect, "letters of a CSV: torch-old reads B as I, BW as B")
      ->check(CLI::IsMember({"torch", "torch-old"}))
      ->capture_default_str();
}

void add_costs(CLI::App* command, tool::CostOptions& costs) {
  command->add_option("--profile", costs.profile, "cost profile (.json)");
  command->add_option("--size", costs.size, "samples of a micro-batch (default: the plan's, or 1)");
  command->add_option("--bounds", costs.bounds, "first layer of each stage, and their number")
      ->delimiter(',');
  command->add_flag("--recompute", costs.recompute, "activations are recomputed");
  command->add_option("--units", costs.units, "without a profile: F,I,W of a rank's share")
      ->delimiter(',')
      ->expected(3);
  command->add_option("--transfer", costs.transfer, "without a profile: cost of a transfer");
}

void add_execution(CLI::App* command, tool::ExecutionOptions& execution) {
  command->add_flag("--one-lane", execution.one_lane, "all transfers of a rank in one order");
  command->add_option("--prefetch", execution.prefetch, "receives posted ahead (0: no limit)");
  command->add_option("--host", execution.host, "what holds the issuing thread up")
      ->check(CLI::IsMember({"asynchronous", "in-order", "blocking"}))
      ->capture_default_str();
}

void add_sizes(CLI::App* command, tool::GenerateOptions& options, int microbatches) {
  options.microbatches = microbatches;
  command->add_option("-p,--ranks", options.ranks, "ranks")->required();
  auto* count = command->add_option("-m,--microbatches", options.microbatches, "micro-batches");
  if (microbatches == 0) count->required();
  command->add_option("-v,--chunks", options.chunks, "stages a rank (default: the fewest)");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Pipeline schedules: generate, prove, price, partition, plan and draw them."};
  app.require_subcommand(1);
  int status = 0;

  tool::InputOptions input;
  tool::InputOptions other;
  tool::CostOptions costs;
  tool::ExecutionOptions execution;

  app.add_subcommand("list", "the known schedules and what they are valid for")->callback([&] {
    status = tool::list();
  });

  tool::GenerateOptions generate;
  auto* command = app.add_subcommand("generate", "write a schedule");
  command->add_option("schedule", generate.name, "its name; see list")->required();
  add_sizes(command, generate, 0);
  command->add_flag("--lower", generate.lower, "with sends, receives and REDUCE_GRAD");
  command->add_option("--format", generate.format, "text or csv (default: by the output's name)")
      ->check(CLI::IsMember({"text", "csv"}));
  command->add_option("-o,--output", generate.output, "file (default: standard output)");
  command->callback([&] { status = tool::generate(generate); });

  command = app.add_subcommand("validate", "prove that a schedule is complete and cannot deadlock");
  add_input(command, input);
  add_costs(command, costs);
  add_execution(command, execution);
  command->callback([&] { status = tool::validate(input, costs, execution); });

  bool json = false;
  command = app.add_subcommand("simulate", "predict step time, bubble and peak memory");
  add_input(command, input);
  add_costs(command, costs);
  add_execution(command, execution);
  command->add_flag("--json", json, "for programs");
  command->callback([&] { status = tool::simulate(input, costs, execution, json); });

  tool::PartitionOptions partition;
  partition.schedule.name = "1f1b";
  command = app.add_subcommand("partition", "split a model's layers over the stages of a schedule");
  command->add_option("--profile", partition.profile, "cost profile (.json)")->required();
  add_sizes(command, partition.schedule, 8);
  command->add_option("--schedule", partition.schedule.name, "its name")->capture_default_str();
  command->add_option("--size", partition.size, "samples of a micro-batch")->capture_default_str();
  command->add_flag("--recompute", partition.recompute, "activations are recomputed");
  command->add_option("--current", partition.current, "plan in use: of equal splits the nearest");
  command->add_option("-o,--output", partition.output, "plan (.json)");
  add_execution(command, execution);
  command->callback([&] { status = tool::partition(partition, execution); });

  tool::PlanOptions plan;
  command = app.add_subcommand("plan", "choose schedule, split and micro-batches");
  command->add_option("--profile", plan.profile, "cost profile (.json)")->required();
  command->add_option("-p,--ranks", plan.ranks, "ranks")->required();
  command->add_option("-b,--batch", plan.batch, "samples of one step")->required();
  command->add_option("--schedule", plan.schedules, "auto, or names")->delimiter(',');
  command->add_option("--sizes", plan.sizes, "sizes of micro-batch (default: all)")->delimiter(',');
  command->add_option("-v,--chunks", plan.chunks, "most stages a rank")->capture_default_str();
  command->add_option("--recompute", plan.recompute, "of activations")
      ->check(CLI::IsMember({"never", "always", "where-needed"}))
      ->capture_default_str();
  command->add_option("--current", plan.current, "plan in use: of equal splits the nearest");
  command->add_option("--rows", plan.rows, "rows of the table")->capture_default_str();
  command->add_option("-o,--output", plan.output, "plan (.json)");
  add_execution(command, execution);
  command->callback([&] { status = tool::plan(plan, execution); });

  tool::DrawCommandOptions drawing;
  command = app.add_subcommand("draw", "picture of a simulated step");
  add_input(command, input);
  add_costs(command, costs);
  add_execution(command, execution);
  command->add_option("--title", drawing.title, "heading");
  command->add_option("-o,--output", drawing.output, ".svg, or .json for ui.perfetto.dev");
  command->callback([&] { status = tool::draw(input, costs, execution, drawing); });

  command = app.add_subcommand("diff", "compare two schedules or plans; exit 1 if they differ");
  add_input(command, input);
  command->add_option("other", other.file, "the second file")->required();
  command->callback([&] {
    other.dialect = input.dialect;
    status = tool::diff(input, other);
  });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const thinwire::Error& error) {
    std::fprintf(stderr, "thinwire-pipeline: %s\n", error.what());
    return 2;
  }
  return status;
}
