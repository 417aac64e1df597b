#include "thinwire/pipeline/lowering.hpp"

#include <fmt/format.h>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

/// Walks all ranks in rounds, a cell a round, and appends each send and its receive together.
class TransferPlacer {
 public:
  explicit TransferPlacer(const Schedule& schedule)
      : source_{schedule}, result_{schedule}, next_(schedule.actions.size(), 0) {
    const std::size_t items = schedule.placement.size() * microbatches();
    forward_here_.assign(items, false);
    backward_here_.assign(items, false);
    for (auto& list : result_.actions) list.clear();
  }

  Schedule run() {
    bool progress = true;
    while (progress) {
      progress = false;
      for (int rank = 0; rank < source_.ranks(); ++rank) progress |= step(rank);
    }
    require_finished();
    return std::move(result_);
  }

 private:
  std::size_t microbatches() const { return static_cast<std::size_t>(source_.microbatches); }
  std::size_t item(int stage, int microbatch) const {
    return static_cast<std::size_t>(stage) * microbatches() + static_cast<std::size_t>(microbatch);
  }
  int rank_of(int stage) const { return source_.placement[static_cast<std::size_t>(stage)]; }

  bool ready(const Action& action) const {
    if (action.kind == Kind::forward) {
      return action.stage == 0 || forward_here_[item(action.stage, action.microbatch)];
    }
    if (makes_input_gradient(action.kind)) {
      return action.stage == source_.stages() - 1 ||
             backward_here_[item(action.stage, action.microbatch)];
    }
    return true;
  }

  /// Hands the output of `action` to its neighbour, over a lane if that is on another rank.
  void deliver(const Action& action) {
    const bool forward = action.kind == Kind::forward;
    if (!forward && !makes_input_gradient(action.kind)) return;
    const int target = forward ? action.stage + 1 : action.stage - 1;
    if (target < 0 || target >= source_.stages()) return;
    (forward ? forward_here_ : backward_here_)[item(target, action.microbatch)] = true;
    const int from = rank_of(action.stage);
    const int to = rank_of(target);
    if (from == to) return;
    result_.actions[static_cast<std::size_t>(from)].push_back(
        {forward ? Kind::send_forward : Kind::send_backward, false, action.stage,
         action.microbatch});
    result_.actions[static_cast<std::size_t>(to)].push_back(
        {forward ? Kind::receive_forward : Kind::receive_backward, false, target,
         action.microbatch});
  }

  /// Lowers the next cell of `rank` if all it needs is there.
  bool step(int rank) {
    const auto& list = source_.actions[static_cast<std::size_t>(rank)];
    const std::size_t begin = next_[static_cast<std::size_t>(rank)];
    if (begin == list.size()) return false;
    std::size_t end = begin;
    while (list[end].joined) ++end;
    ++end;
    for (std::size_t i = begin; i < end; ++i) {
      if (!ready(list[i])) return false;
    }
    auto& out = result_.actions[static_cast<std::size_t>(rank)];
    for (std::size_t i = begin; i < end; ++i) out.push_back(list[i]);
    for (std::size_t i = begin; i < end; ++i) deliver(list[i]);
    next_[static_cast<std::size_t>(rank)] = end;
    return true;
  }

  void require_finished() const {
    std::string waiting;
    for (int rank = 0; rank < source_.ranks(); ++rank) {
      const auto& list = source_.actions[static_cast<std::size_t>(rank)];
      const std::size_t position = next_[static_cast<std::size_t>(rank)];
      if (position == list.size()) continue;
      waiting += fmt::format("{}rank {}, position {}, {}", waiting.empty() ? "" : "; ", rank,
                             position, to_string(list[position]));
    }
    THINWIRE_EXPECTS(waiting.empty(), InvalidArgument,
                     "the compute order never gets past: " + waiting);
  }

  const Schedule& source_;
  Schedule result_;
  std::vector<std::size_t> next_;
  std::vector<bool> forward_here_;   ///< input of F(stage, mb) is or comes on its rank
  std::vector<bool> backward_here_;  ///< the same for the gradient that B or I takes
};

}  // namespace

Schedule place_reductions(const Schedule& schedule) {
  Schedule result = schedule;
  std::vector<int> left(schedule.placement.size(), 0);
  for (const auto& list : schedule.actions) {
    for (const Action& action : list) {
      if (makes_weight_gradient(action.kind)) ++left[static_cast<std::size_t>(action.stage)];
    }
  }
  for (std::size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    auto& out = result.actions[rank];
    out.clear();
    std::vector<int> done;
    for (const Action& action : schedule.actions[rank]) {
      if (action.kind == Kind::reduce_gradient) continue;
      out.push_back(action);
      if (makes_weight_gradient(action.kind) &&
          --left[static_cast<std::size_t>(action.stage)] == 0) {
        done.push_back(action.stage);
      }
      if (action.joined) continue;
      for (int stage : done) out.push_back({Kind::reduce_gradient, false, stage, -1});
      done.clear();
    }
  }
  return result;
}

Schedule place_transfers(const Schedule& schedule) {
  require_well_formed(schedule);
  return schedule.has_transfers() ? schedule : TransferPlacer{schedule}.run();
}

Schedule lower(const Schedule& schedule) {
  require_well_formed(schedule);
  return schedule.has_transfers() ? schedule : place_transfers(place_reductions(schedule));
}

Schedule strip(const Schedule& schedule) {
  Schedule result = schedule;
  for (auto& list : result.actions) {
    std::erase_if(list, [](const Action& action) { return !is_compute(action.kind); });
  }
  return result;
}

}  // namespace thinwire::pipeline
