#include "list_scheduler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>

#include "memory.hpp"

namespace thinwire::pipeline {
namespace {

constexpr double never = std::numeric_limits<double>::infinity();

class Player {
 public:
  Player(const std::vector<int>& placement, int microbatches, const Costs& costs,
         const ListRules& rules)
      : costs_{costs}, rules_{rules}, stages_(placement.size()) {
    int ranks = 0;
    for (int rank : placement) ranks = std::max(ranks, rank + 1);
    schedule_ = {"greedy", microbatches, placement,
                 std::vector<std::vector<Action>>(static_cast<std::size_t>(ranks))};
    ranks_.resize(static_cast<std::size_t>(ranks));
    const auto m = static_cast<std::size_t>(microbatches);
    for (int s = 0; s < schedule_.stages(); ++s) {
      Stage& stage = stages_[static_cast<std::size_t>(s)];
      stage.forward_here.assign(m, s == 0 ? 0.0 : never);
      stage.backward_here.assign(m, never);
      stage.limit = limit_of(s);
      Rank& rank = ranks_[static_cast<std::size_t>(rank_of(s))];
      rank.stages.push_back(s);
      rank.held += costs.stages[static_cast<std::size_t>(s)].fixed;
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].cap = costs.caps.empty() ? never : costs.caps[r];
      if (rules.deep_first) std::reverse(ranks_[r].stages.begin(), ranks_[r].stages.end());
    }
  }

  std::optional<Schedule> run() {
    for (int r = 0; r < schedule_.ranks(); ++r) wake(r, 0.0);
    while (!alarms_.empty()) {
      const auto [time, rank] = alarms_.top();
      alarms_.pop();
      if (time >= ranks_[static_cast<std::size_t>(rank)].clock) act(rank, time);
    }
    const auto m = schedule_.microbatches;
    for (const Stage& stage : stages_) {
      if (stage.weights < m) return std::nullopt;
    }
    return std::move(schedule_);
  }

 private:
  struct Stage {
    std::vector<double> forward_here;   ///< micro-batch -> time its input is on the rank
    std::vector<double> backward_here;  ///< the same for the gradient (last stage: the forward)
    int forwards = 0;
    int inputs = 0;
    int weights = 0;
    int limit = 0;             ///< F at most this many ahead of I
    double forward_lane = 0;   ///< time its lane onwards is free
    double backward_lane = 0;  ///< time its lane back is free
  };
  struct Rank {
    std::vector<int> stages;  ///< in order of preference
    double clock = 0;
    double held = 0;
    double cap = never;
  };
  using Alarm = std::pair<double, int>;

  int rank_of(int stage) const { return schedule_.placement[static_cast<std::size_t>(stage)]; }
  const StageCost& cost(int stage) const { return costs_.stages[static_cast<std::size_t>(stage)]; }
  bool fused() const { return rules_.weights == ListRules::Weights::fused; }
  void wake(int rank, double time) { alarms_.push({time, rank}); }

  int limit_of(int stage) const {
    if (rules_.in_flight <= 0) return schedule_.microbatches;
    const double distance = static_cast<double>(schedule_.stages() - stage);
    return std::max(1, static_cast<int>(std::ceil(rules_.in_flight * distance)));
  }

  /// Bytes that an action needs beyond what is held, at its worst moment.
  double growth(Kind kind, int stage) const {
    const double start = bytes_at_start(kind, cost(stage));
    return std::max(start, start + bytes_at_end(kind, cost(stage)));
  }

  bool forward_ready(const Rank& rank, int s, double time) const {
    const Stage& stage = stages_[static_cast<std::size_t>(s)];
    if (stage.forwards >= schedule_.microbatches) return false;
    if (stage.forward_here[static_cast<std::size_t>(stage.forwards)] > time) return false;
    if (stage.forwards - stage.inputs >= stage.limit) return false;
    // Leave room for this micro-batch in the rank's later stages, or it could never come back.
    double later = 0;
    double largest_growth = 0;
    for (int other : rank.stages) {
      if (other > s) later += cost(other).activation;
      largest_growth = std::max(largest_growth, growth(Kind::input_gradient, other));
    }
    const double reserve = std::max(later, largest_growth);
    return rank.held + cost(s).activation + reserve <= rank.cap || last_resort(rank, s);
  }

  /// With nothing in flight on its stages a rank may use the memory it kept back.
  bool last_resort(const Rank& rank, int s) const {
    for (int other : rank.stages) {
      const Stage& stage = stages_[static_cast<std::size_t>(other)];
      if (stage.forwards != stage.weights && other <= s) return false;
    }
    return rank.held + cost(s).activation <= rank.cap;
  }

  bool input_ready(const Rank& rank, int s, double time) const {
    const Stage& stage = stages_[static_cast<std::size_t>(s)];
    if (stage.inputs >= stage.forwards) return false;
    if (stage.backward_here[static_cast<std::size_t>(stage.inputs)] > time) return false;
    return rank.held + growth(fused() ? Kind::backward : Kind::input_gradient, s) <= rank.cap;
  }

  int find_forward(const Rank& rank, double time) const {
    for (int s : rank.stages) {
      if (forward_ready(rank, s, time)) return s;
    }
    return -1;
  }
  int find_input(const Rank& rank, double time) const {
    for (int s : rank.stages) {
      if (input_ready(rank, s, time)) return s;
    }
    return -1;
  }
  int find_weight(const Rank& rank) const {
    for (int s : rank.stages) {
      const Stage& stage = stages_[static_cast<std::size_t>(s)];
      if (stage.weights < stage.inputs) return s;
    }
    return -1;
  }

  void act(int r, double time) {
    const Rank& rank = ranks_[static_cast<std::size_t>(r)];
    const int forward = find_forward(rank, time);
    const int input = find_input(rank, time);
    const int weight = find_weight(rank);
    if (input >= 0 && (rules_.backward_first || forward < 0)) {
      start(r, fused() ? Kind::backward : Kind::input_gradient, input, time);
    } else if (forward >= 0 && (rules_.weights != ListRules::Weights::eager || weight < 0)) {
      start(r, Kind::forward, forward, time);
    } else if (weight >= 0) {
      start(r, Kind::weight_gradient, weight, time);
    }
  }

  void start(int r, Kind kind, int s, double time) {
    Rank& rank = ranks_[static_cast<std::size_t>(r)];
    Stage& stage = stages_[static_cast<std::size_t>(s)];
    const StageCost& c = cost(s);
    rank.held += bytes_at_start(kind, c) + bytes_at_end(kind, c);
    int microbatch = 0;
    switch (kind) {
      case Kind::forward:
        microbatch = stage.forwards++;
        rank.clock = time + c.forward;
        deliver_forward(s, microbatch, rank.clock);
        break;
      case Kind::weight_gradient:
        microbatch = stage.weights++;
        rank.clock = time + c.weight_gradient;
        break;
      default:
        microbatch = stage.inputs++;
        if (kind == Kind::backward) ++stage.weights;
        rank.clock = time + (kind == Kind::backward ? c.backward : c.input_gradient);
        deliver_backward(s, microbatch, rank.clock);
        break;
    }
    schedule_.actions[static_cast<std::size_t>(r)].push_back({kind, false, s, microbatch});
    wake(r, rank.clock);
  }

  void deliver_forward(int s, int microbatch, double time) {
    const auto mb = static_cast<std::size_t>(microbatch);
    if (s + 1 == schedule_.stages()) {
      stages_[static_cast<std::size_t>(s)].backward_here[mb] = time;
      return;
    }
    const double arrival = arrive(s, s + 1, stages_[static_cast<std::size_t>(s)].forward_lane,
                                  cost(s).send_forward, time);
    stages_[static_cast<std::size_t>(s) + 1].forward_here[mb] = arrival;
  }

  void deliver_backward(int s, int microbatch, double time) {
    if (s == 0) return;
    const double arrival = arrive(s, s - 1, stages_[static_cast<std::size_t>(s)].backward_lane,
                                  cost(s).send_backward, time);
    stages_[static_cast<std::size_t>(s) - 1].backward_here[static_cast<std::size_t>(microbatch)] =
        arrival;
  }

  double arrive(int from, int to, double& lane, double seconds, double time) {
    if (rank_of(from) == rank_of(to)) return time;
    lane = std::max(lane, time) + seconds;
    wake(rank_of(to), lane);
    return lane;
  }

  const Costs& costs_;
  const ListRules& rules_;
  Schedule schedule_;
  std::vector<Stage> stages_;
  std::vector<Rank> ranks_;
  std::priority_queue<Alarm, std::vector<Alarm>, std::greater<>> alarms_;
};

}  // namespace

std::optional<Schedule> list_schedule(const std::vector<int>& placement, int microbatches,
                                      const Costs& costs, const ListRules& rules) {
  return Player{placement, microbatches, costs, rules}.run();
}

}  // namespace thinwire::pipeline
