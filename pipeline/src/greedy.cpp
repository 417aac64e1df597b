#include "thinwire/pipeline/greedy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "list_scheduler.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/generators.hpp"

namespace thinwire::pipeline {
namespace {

/// The best schedule so far, and what it takes to beat it.
class Contest {
 public:
  Contest(const Costs& costs, const Execution& execution) : costs_{costs}, execution_{execution} {}

  /// Simulates; keeps the schedule if it fits and is quicker.
  void enter(const Schedule& schedule) {
    const Timeline timeline = simulate(schedule, costs_, execution_);
    least_peak_ = std::min(least_peak_, timeline.peak_bytes());
    if (!fits(timeline, costs_)) return;
    if (best_ && timeline.step_time >= step_time_) return;
    best_ = schedule;
    step_time_ = timeline.step_time;
  }

  bool has_best() const { return best_.has_value(); }
  const Schedule& best() const { return *best_; }
  double least_peak() const { return least_peak_; }

 private:
  const Costs& costs_;
  const Execution& execution_;
  std::optional<Schedule> best_;
  double step_time_ = 0;
  double least_peak_ = std::numeric_limits<double>::infinity();
};

void enter_list_schedules(Contest& contest, const std::vector<int>& placement, int microbatches,
                          const Costs& costs) {
  using Weights = ListRules::Weights;
  for (Weights weights : {Weights::fused, Weights::fill, Weights::eager}) {
    for (double in_flight : {0.0, 0.5, 1.0, 1.5, 2.0}) {
      for (bool deep_first : {true, false}) {
        for (bool backward_first : {true, false}) {
          const auto schedule = list_schedule(placement, microbatches, costs,
                                              {deep_first, backward_first, in_flight, weights});
          if (schedule) contest.enter(*schedule);
        }
      }
    }
  }
}

}  // namespace

bool fits(const Timeline& timeline, const Costs& costs) {
  for (std::size_t rank = 0; rank < costs.caps.size(); ++rank) {
    if (timeline.ranks[rank].peak_bytes > costs.caps[rank] * (1 + 1e-12)) return false;
  }
  return true;
}

std::vector<Schedule> fixed_schedules(const std::vector<int>& placement, int microbatches) {
  int ranks = 0;
  for (int rank : placement) ranks = std::max(ranks, rank + 1);
  const int chunks = ranks == 0 ? 0 : static_cast<int>(placement.size()) / ranks;
  std::vector<Schedule> found;
  for (const GeneratorInfo& info : generators()) {
    if (!can_generate(info.name, ranks, microbatches, chunks)) continue;
    Schedule schedule = generate(info.name, ranks, microbatches, chunks);
    if (schedule.placement == placement) found.push_back(std::move(schedule));
  }
  return found;
}

Schedule greedy(const std::vector<int>& placement, int microbatches, const Costs& costs,
                const Execution& execution) {
  Contest contest{costs, execution};
  for (const Schedule& schedule : fixed_schedules(placement, microbatches)) contest.enter(schedule);
  enter_list_schedules(contest, placement, microbatches, costs);
  THINWIRE_EXPECTS(contest.has_best(), InvalidArgument,
                   fmt::format("greedy: no schedule of {} micro-batches fits the memory caps; the "
                               "fullest rank of the leanest one needs {:.0f} bytes",
                               microbatches, contest.least_peak()));
  Schedule best = contest.best();
  best.name = "greedy";
  return best;
}

}  // namespace thinwire::pipeline
