#pragma once

#include <string>
#include <vector>

/// The verbs of thinwire-pipeline without their command line. Each returns the exit status: 0, or 1
/// for "no" (invalid, different); errors are thrown.
namespace thinwire::pipeline::tool {

/// A schedule (.csv as torch writes it, else the text form) or a plan (.json).
struct InputOptions {
  std::string file;
  std::string dialect = "torch";
};

/// What a schedule's cells cost: a profile, or a few numbers.
struct CostOptions {
  std::string profile;                 ///< empty: `units`
  int size = 0;                        ///< samples of a micro-batch; 0: the plan's, else 1
  std::vector<int> bounds;             ///< empty: the plan's, else the best
  bool recompute = false;              ///< or the plan's
  std::vector<double> units{1, 1, 1};  ///< F, I, W of a rank's whole share
  double transfer = 0;                 ///< in the same units, with `units`
};

struct ExecutionOptions {
  bool one_lane = false;
  int prefetch = 0;
  std::string host = "asynchronous";
};

struct GenerateOptions {
  std::string name;
  int ranks = 0;
  int microbatches = 0;
  int chunks = 0;
  bool lower = false;
  std::string format;  ///< "text", "csv"; empty: by the name of `output`
  std::string output;
};

struct PlanOptions {
  std::string profile;
  int ranks = 0;
  int batch = 0;
  std::vector<std::string> schedules;
  std::vector<int> sizes;
  int chunks = 4;
  std::string recompute = "never";
  std::string current;  ///< a plan whose layers lie where they lie
  int rows = 12;
  std::string output;
};

struct PartitionOptions {
  std::string profile;
  GenerateOptions schedule;
  int size = 1;
  bool recompute = false;
  std::string current;
  std::string output;
};

struct DrawCommandOptions {
  std::string title;
  std::string output;  ///< .svg, or .json for Perfetto
};

int list();
int generate(const GenerateOptions& options);
int validate(const InputOptions& input, const CostOptions& costs,
             const ExecutionOptions& execution);
int simulate(const InputOptions& input, const CostOptions& costs, const ExecutionOptions& execution,
             bool json);
int partition(const PartitionOptions& options, const ExecutionOptions& execution);
int plan(const PlanOptions& options, const ExecutionOptions& execution);
int draw(const InputOptions& input, const CostOptions& costs, const ExecutionOptions& execution,
         const DrawCommandOptions& options);
int diff(const InputOptions& first, const InputOptions& second);

}  // namespace thinwire::pipeline::tool
