#include "thinwire/pipeline/simulator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "checks.hpp"
#include "graph.hpp"
#include "memory.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::array<std::string_view, causes> cause_names = {"warm-up", "dependency", "transfer",
                                                              "drain", "imbalance"};

double seconds(const Action& action, const StageCost& stage) {
  switch (action.kind) {
    case Kind::forward:
      return stage.forward;
    case Kind::backward:
      return stage.backward;
    case Kind::input_gradient:
      return stage.input_gradient;
    case Kind::weight_gradient:
      return stage.weight_gradient;
    case Kind::send_forward:
      return stage.send_forward;
    case Kind::send_backward:
      return stage.send_backward;
    case Kind::reduce_gradient:
      return stage.reduce;
    default:
      return 0.0;
  }
}

/// One change of a rank's bytes. At equal times buffers are freed before and allocated after what
/// compute does, so that memory which changes hands is not counted twice.
struct MemoryEvent {
  double time;
  int turn;  ///< 0: buffer freed, 1: compute, 2: buffer allocated
  double bytes;
};

double peak(std::vector<MemoryEvent> events, double fixed) {
  std::stable_sort(events.begin(), events.end(), [](const MemoryEvent& a, const MemoryEvent& b) {
    return a.time != b.time ? a.time < b.time : a.turn < b.turn;
  });
  double held = fixed;
  double highest = fixed;
  for (const MemoryEvent& event : events) {
    held += event.bytes;
    highest = std::max(highest, held);
  }
  return highest;
}

/// Reads a timeline off the graph's earliest start times.
class Reader {
 public:
  Reader(const Schedule& schedule, const Costs& costs, const Execution& execution)
      : schedule_{schedule}, costs_{costs}, graph_{build_graph(schedule, execution)} {
    duration_.reserve(graph_.nodes.size());
    for (const Node& node : graph_.nodes) {
      duration_.push_back(seconds(node.action, stage_cost(node.action.stage)));
    }
    const auto order = graph_.topological_order(&start_, duration_);
    THINWIRE_EXPECTS(order.size() == graph_.nodes.size(), InvalidArgument,
                     "the schedule deadlocks; validate() shows the cycle");
    timeline_.ranks.resize(schedule.actions.size());
    reduced_.assign(schedule.actions.size(), 0.0);
    events_.resize(schedule.actions.size());
  }

  Timeline read() {
    read_spans();
    read_ends();
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      read_waits(rank);
      read_memory(rank);
    }
    split_off_imbalance();
    return std::move(timeline_);
  }

 private:
  const StageCost& stage_cost(int stage) const {
    return costs_.stages[static_cast<std::size_t>(stage)];
  }
  double start(int node) const { return start_[static_cast<std::size_t>(node)]; }
  double end(int node) const { return start(node) + duration_[static_cast<std::size_t>(node)]; }
  RankTimeline& rank_timeline(int rank) { return timeline_.ranks[static_cast<std::size_t>(rank)]; }
  const std::vector<int>& compute(int rank) const {
    return graph_.compute[static_cast<std::size_t>(rank)];
  }

  void read_spans() {
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      RankTimeline& out = rank_timeline(rank);
      for (int index : compute(rank)) {
        const Node& node = graph_.nodes[static_cast<std::size_t>(index)];
        out.compute.push_back({{start(index), end(index)}, node.action});
        out.busy += end(index) - start(index);
      }
    }
    for (int index = 0; index < static_cast<int>(graph_.nodes.size()); ++index) {
      const Node& node = graph_.nodes[static_cast<std::size_t>(index)];
      const bool reduction = node.action.kind == Kind::reduce_gradient;
      if (!reduction && !is_send(node.action.kind)) continue;
      const int destination = reduction ? node.rank : node.peer;
      timeline_.transfers.push_back(
          {{start(index), end(index)}, node.action, node.rank, destination});
      if (reduction) {
        double& reduced = reduced_[static_cast<std::size_t>(node.rank)];
        reduced = std::max(reduced, end(index));
      } else {
        add_output_buffer(index, node);
      }
    }
  }

  /// A made output stays on its rank until it is sent.
  void add_output_buffer(int transfer, const Node& node) {
    const StageCost& stage = stage_cost(node.action.stage);
    const double bytes = node.action.kind == Kind::send_forward ? stage.output : stage.input;
    auto& events = events_[static_cast<std::size_t>(node.rank)];
    events.push_back({made_at(transfer), 2, bytes});
    events.push_back({end(transfer), 0, -bytes});
  }

  /// Time at which the data of a transfer is ready.
  double made_at(int transfer) const {
    const auto index = static_cast<std::size_t>(transfer);
    return end(graph_.nodes[index].producer);
  }

  void read_ends() {
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      RankTimeline& out = rank_timeline(rank);
      const double computed = out.compute.empty() ? 0.0 : out.compute.back().end;
      double update = 0;
      for (int stage : schedule_.stages_of(rank)) update += stage_cost(stage).optimizer;
      out.optimizer.start = std::max(computed, reduced_[static_cast<std::size_t>(rank)]);
      out.optimizer.end = out.optimizer.start + update;
      out.busy += update;
      timeline_.step_time = std::max(timeline_.step_time, out.optimizer.end);
    }
  }

  void wait(RankTimeline& out, double from, double to, Cause cause) {
    if (to <= from) return;
    out.waits[static_cast<int>(cause)] += to - from;
    out.idle.push_back({{from, to}, cause});
  }

  void read_waits(int rank) {
    RankTimeline& out = rank_timeline(rank);
    double clock = 0;
    for (int index : compute(rank)) {
      const Node& node = graph_.nodes[static_cast<std::size_t>(index)];
      if (index == compute(rank).front()) {
        wait(out, 0, start(index), Cause::warm_up);
      } else {
        const double made = node.producer < 0 ? clock : end(node.producer);
        const double split = std::clamp(made, clock, start(index));
        wait(out, clock, split, Cause::dependency);
        wait(out, split, start(index), Cause::transfer);
      }
      clock = end(index);
    }
    wait(out, clock, out.optimizer.start, Cause::transfer);
    wait(out, out.optimizer.end, timeline_.step_time, Cause::drain);
  }

  void read_memory(int rank) {
    RankTimeline& out = rank_timeline(rank);
    auto& events = events_[static_cast<std::size_t>(rank)];
    std::vector<MemoryEvent> activations;
    for (int index : compute(rank)) {
      const Node& node = graph_.nodes[static_cast<std::size_t>(index)];
      const StageCost& stage = stage_cost(node.action.stage);
      const Kind kind = node.action.kind;
      activations.push_back({start(index), 1, bytes_at_start(kind, stage)});
      activations.push_back({end(index), 1, bytes_at_end(kind, stage)});
      if (node.transfer < 0) continue;
      // A received activation becomes part of what F holds; a received gradient lives until B ends.
      const bool forward = kind == Kind::forward;
      const double bytes = forward ? stage.input : stage.output;
      events.push_back({start(node.transfer), 2, bytes});
      events.push_back({forward ? start(index) : end(index), 0, -bytes});
    }
    double fixed = 0;
    for (int stage : schedule_.stages_of(rank)) fixed += stage_cost(stage).fixed;
    out.peak_activation_bytes = peak(activations, 0);
    events.insert(events.end(), activations.begin(), activations.end());
    out.peak_bytes = peak(std::move(events), fixed);
  }

  /// What a rank lacks in work against the busiest one it must idle in any schedule: that part of
  /// its dependency waits, spread evenly over them, is put down to imbalance.
  void split_off_imbalance() {
    double busiest = 0;
    for (const RankTimeline& out : timeline_.ranks) busiest = std::max(busiest, out.busy);
    for (RankTimeline& out : timeline_.ranks) {
      double& dependency = out.waits[static_cast<int>(Cause::dependency)];
      const double moved = std::min(dependency, busiest - out.busy);
      if (moved <= 0) continue;
      const double kept = 1 - moved / dependency;
      std::vector<WaitSpan> idle;
      for (const WaitSpan& span : out.idle) {
        if (span.cause != Cause::dependency) {
          idle.push_back(span);
          continue;
        }
        const double middle = span.start + kept * (span.end - span.start);
        if (middle > span.start) idle.push_back({{span.start, middle}, Cause::dependency});
        idle.push_back({{middle, span.end}, Cause::imbalance});
      }
      out.idle = std::move(idle);
      dependency -= moved;
      out.waits[static_cast<int>(Cause::imbalance)] = moved;
    }
  }

  const Schedule& schedule_;
  const Costs& costs_;
  const Graph graph_;
  std::vector<double> duration_;
  std::vector<double> start_;
  std::vector<double> reduced_;  ///< rank -> end of its last reduction
  std::vector<std::vector<MemoryEvent>> events_;
  Timeline timeline_;
};

}  // namespace

std::string_view to_string(Cause cause) { return cause_names[static_cast<std::size_t>(cause)]; }

double Timeline::bubble() const {
  double busy = 0;
  for (const RankTimeline& rank : ranks) busy += rank.busy;
  return step_time > 0 ? 1 - busy / (static_cast<double>(ranks.size()) * step_time) : 0.0;
}

double Timeline::peak_bytes() const {
  double highest = 0;
  for (const RankTimeline& rank : ranks) highest = std::max(highest, rank.peak_bytes);
  return highest;
}

Timeline simulate(const Schedule& schedule, const Costs& costs, const Execution& execution) {
  require_well_formed(schedule);
  require_usable(costs, schedule.stages(), schedule.ranks());
  const auto defect = check_sets(schedule);
  THINWIRE_EXPECTS(!defect, InvalidArgument, defect->message);
  return Reader{schedule, costs, execution}.read();
}

}  // namespace thinwire::pipeline
