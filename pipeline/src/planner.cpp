#include "thinwire/pipeline/planner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/greedy.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::string_view greedy_name = "greedy";

/// A candidate before it is judged.
struct Option {
  PlanCandidate candidate;
  Schedule schedule;  ///< greedy: a fixed one whose memory in flight stands in for its own
};

std::vector<int> divisors(int number) {
  std::vector<int> found;
  for (int size = 1; size <= number; ++size) {
    if (number % size == 0) found.push_back(size);
  }
  return found;
}

void require_possible(const Profile& profile, const PlanRequest& request) {
  require_usable(profile);
  THINWIRE_EXPECTS(request.ranks >= 1, InvalidArgument,
                   fmt::format("a plan for {} ranks", request.ranks));
  THINWIRE_EXPECTS(request.batch >= 1, InvalidArgument,
                   fmt::format("a plan for a batch of {} samples", request.batch));
  THINWIRE_EXPECTS(request.max_chunks >= 1, InvalidArgument,
                   fmt::format("a plan with at most {} stages a rank", request.max_chunks));
  THINWIRE_EXPECTS(static_cast<int>(profile.layers.size()) >= request.ranks, InvalidArgument,
                   fmt::format("{} ranks need at least {} layers, but {} has {}", request.ranks,
                               request.ranks, profile.model, profile.layers.size()));
  for (int size : request.microbatch_sizes) {
    THINWIRE_EXPECTS(size >= 1 && request.batch % size == 0, InvalidArgument,
                     fmt::format("micro-batches of {} samples do not divide a batch of {}", size,
                                 request.batch));
  }
  for (const std::string& name : request.schedules) {
    if (name != greedy_name) generator_info(name);
  }
}

class Planner {
 public:
  Planner(const Profile& profile, const PlanRequest& request)
      : profile_{profile}, request_{request} {}

  PlanReport run() {
    collect();
    // The most promising first, so that its step time spares the others their simulation; greedy
    // costs sixty, so it comes last.
    std::stable_sort(options_.begin(), options_.end(), [](const Option& a, const Option& b) {
      const bool a_greedy = a.candidate.schedule == greedy_name;
      const bool b_greedy = b.candidate.schedule == greedy_name;
      return a_greedy != b_greedy ? b_greedy : a.candidate.least_time < b.candidate.least_time;
    });
    for (Option& option : options_) {
      if (option.candidate.refused.empty()) judge(option);
      report_.candidates.push_back(option.candidate);
    }
    std::stable_sort(report_.candidates.begin(), report_.candidates.end(),
                     [](const PlanCandidate& a, const PlanCandidate& b) {
                       if (a.refused.empty() != b.refused.empty()) return a.refused.empty();
                       return a.step_time < b.step_time;
                     });
    THINWIRE_EXPECTS(report_.best.step_time > 0, InvalidArgument,
                     "no schedule and split fits:\n" + to_table(report_));
    return std::move(report_);
  }

 private:
  bool wanted(std::string_view name) const {
    return request_.schedules.empty() ||
           std::find(request_.schedules.begin(), request_.schedules.end(), name) !=
               request_.schedules.end();
  }

  void collect() {
    const std::vector<int> sizes =
        request_.microbatch_sizes.empty() ? divisors(request_.batch) : request_.microbatch_sizes;
    for (int size : sizes) {
      for (bool recompute : {false, true}) {
        if (recompute && request_.recompute == Recompute::never) continue;
        if (!recompute && request_.recompute == Recompute::always) continue;
        collect(size, recompute);
      }
    }
  }

  void collect(int size, bool recompute) {
    const int m = request_.batch / size;
    for (const GeneratorInfo& info : generators()) {
      const int most = info.max_chunks == 0 ? request_.max_chunks
                                            : std::min(info.max_chunks, request_.max_chunks);
      for (int v = info.min_chunks; v <= most; ++v) {
        if (static_cast<int>(profile_.layers.size()) < request_.ranks * v) continue;
        if (!can_generate(info.name, request_.ranks, m, v)) continue;
        const Schedule schedule = generate(info.name, request_.ranks, m, v);
        if (wanted(info.name)) add(schedule, std::string{info.name}, v, size, recompute);
        // One greedy a placement: beside the schedule that stands for its memory.
        const bool stands = info.name == "1f1b" || info.name == "interleaved" || info.name == "zbv";
        if (stands && wanted(greedy_name)) {
          add(schedule, std::string{greedy_name}, v, size, recompute);
        }
      }
    }
  }

  void add(const Schedule& schedule, const std::string& name, int v, int size, bool recompute) {
    Option option;
    option.candidate.schedule = name;
    option.candidate.chunks = v;
    option.candidate.microbatches = schedule.microbatches;
    option.candidate.microbatch_size = size;
    option.candidate.recompute = recompute;
    option.schedule = schedule;
    // Without caps: a bound for whatever memory allows.
    PartitionProblem problem =
        partition_problem(profile_, schedule, fit_request(option.candidate, schedule));
    problem.caps.clear();
    problem.bytes.clear();
    const PartitionResult result = partition(problem);
    if (result.optimal) option.candidate.least_time = result.bottleneck * schedule.microbatches;
    options_.push_back(std::move(option));
  }

  FitRequest fit_request(const PlanCandidate& candidate, const Schedule& schedule) const {
    FitRequest request;
    request.samples = candidate.microbatch_size;
    request.recompute = candidate.recompute;
    request.execution = request_.execution;
    if (request_.current.size() == schedule.placement.size() + 1)
      request.current = request_.current;
    return request;
  }

  void judge(Option& option) {
    PlanCandidate& candidate = option.candidate;
    const double best = report_.best.step_time;
    if (best > 0 && candidate.least_time >= best) {
      candidate.refused =
          fmt::format("its busiest rank alone takes {:.4g} s", candidate.least_time);
      return;
    }
    if (candidate.recompute && request_.recompute == Recompute::where_needed &&
        fits_without(candidate)) {
      candidate.refused = "fits without recompute";
      return;
    }
    try {
      Fit found = fit(profile_, option.schedule, fit_request(candidate, option.schedule));
      if (candidate.schedule == greedy_name) {
        option.schedule = greedy(option.schedule.placement, candidate.microbatches, found.costs,
                                 request_.execution);
        found.timeline = simulate(option.schedule, found.costs, request_.execution);
      }
      candidate.step_time = found.timeline.step_time;
      candidate.bubble = found.timeline.bubble();
      candidate.peak_bytes = found.timeline.peak_bytes();
      keep(option, found);
    } catch (const InvalidArgument& error) {
      candidate.refused = error.what();
    }
  }

  /// Was the same way judged without recompute, and did it fit?
  bool fits_without(const PlanCandidate& candidate) const {
    return std::any_of(
        report_.candidates.begin(), report_.candidates.end(), [&](const PlanCandidate& other) {
          return other.schedule == candidate.schedule && other.chunks == candidate.chunks &&
                 other.microbatch_size == candidate.microbatch_size && !other.recompute &&
                 other.refused.empty();
        });
  }

  void keep(const Option& option, const Fit& found) {
    const PlanCandidate& candidate = option.candidate;
    Plan& best = report_.best;
    if (best.step_time > 0 && candidate.step_time >= best.step_time) return;
    best = {profile_.model,      option.schedule,     found.bounds,     candidate.microbatch_size,
            candidate.recompute, candidate.step_time, candidate.bubble, candidate.peak_bytes};
  }

  const Profile& profile_;
  const PlanRequest& request_;
  std::vector<Option> options_;
  PlanReport report_;
};

}  // namespace

PlanReport make_plan(const Profile& profile, const PlanRequest& request) {
  require_possible(profile, request);
  return Planner{profile, request}.run();
}

std::string to_table(const PlanReport& report, int rows) {
  std::string text =
      fmt::format("{:<12} {:>2} {:>4} {:>5} {:>9} {:>10} {:>10} {:>7} {:>9}\n", "schedule", "v",
                  "m", "size", "recompute", "step ms", "samples/s", "bubble", "peak GiB");
  int shown = 0;
  int bounded = 0;
  std::vector<const PlanCandidate*> refused;
  for (const PlanCandidate& c : report.candidates) {
    if (!c.refused.empty()) {
      refused.push_back(&c);
      continue;
    }
    if (++shown > rows) continue;
    const double samples = static_cast<double>(c.microbatches) * c.microbatch_size;
    text += fmt::format("{:<12} {:>2} {:>4} {:>5} {:>9} {:>10.3f} {:>10.1f} {:>6.1f}% {:>9.2f}\n",
                        c.schedule, c.chunks, c.microbatches, c.microbatch_size,
                        c.recompute ? "yes" : "no", 1e3 * c.step_time, samples / c.step_time,
                        100 * c.bubble, c.peak_bytes / (1024.0 * 1024 * 1024));
  }
  if (shown > rows) text += fmt::format("... {} more, slower\n", shown - rows);
  for (const PlanCandidate* c : refused) {
    if (c->refused.starts_with("its busiest rank")) {
      ++bounded;
      continue;
    }
    text +=
        fmt::format("{:<12} {:>2} {:>4} {:>5} {:>9} not: {}\n", c->schedule, c->chunks,
                    c->microbatches, c->microbatch_size, c->recompute ? "yes" : "no", c->refused);
  }
  if (bounded > 0) {
    text += fmt::format(
        "{} more were not simulated: their busiest rank alone takes longer than the "
        "best step\n",
        bounded);
  }
  return text;
}

}  // namespace thinwire::pipeline
