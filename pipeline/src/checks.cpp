#include "checks.hpp"

#include <fmt/format.h>

#include <map>

namespace thinwire::pipeline {
namespace {

/// Where every action of a schedule stands, and the checks that need no graph.
class Checker {
 public:
  explicit Checker(const Schedule& schedule)
      : schedule_{schedule}, lowered_{schedule.has_transfers()} {}

  std::optional<Defect> run() {
    using Check = std::optional<Defect> (Checker::*)();
    for (Check check : {&Checker::index_all, &Checker::check_computes, &Checker::check_ascending,
                        &Checker::check_transfers, &Checker::check_lanes,
                        &Checker::check_reductions, &Checker::check_sharding}) {
      if (auto defect = (this->*check)()) return defect;
    }
    return std::nullopt;
  }

 private:
  static constexpr int absent = -1;
  static constexpr int kinds = 8;

  int& place(Kind kind, int stage, int microbatch) {
    const auto index =
        (static_cast<std::size_t>(stage) * static_cast<std::size_t>(schedule_.microbatches) +
         static_cast<std::size_t>(microbatch)) *
            kinds +
        static_cast<std::size_t>(kind);
    return places_[index];
  }
  int rank_of(int stage) const { return schedule_.placement[static_cast<std::size_t>(stage)]; }

  Defect missing(Rule rule, Kind kind, int stage, int microbatch) const {
    const Action action{kind, false, stage, microbatch};
    return make_defect(rule, absent, absent, &action,
                       fmt::format("missing from rank {}", rank_of(stage)));
  }
  Defect misplaced(Rule rule, Kind kind, int stage, int microbatch, std::string_view why) {
    const Action action{kind, false, stage, microbatch};
    return make_defect(rule, rank_of(stage), place(kind, stage, microbatch), &action, why);
  }

  template <typename Body>
  std::optional<Defect> for_each_action(Body body) {
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      const auto& list = schedule_.actions[static_cast<std::size_t>(rank)];
      for (int position = 0; position < static_cast<int>(list.size()); ++position) {
        if (auto defect = body(list[static_cast<std::size_t>(position)], rank, position)) {
          return defect;
        }
      }
    }
    return std::nullopt;
  }
  template <typename Body>
  std::optional<Defect> for_each_unit(Body body) {
    for (int stage = 0; stage < schedule_.stages(); ++stage) {
      for (int microbatch = 0; microbatch < schedule_.microbatches; ++microbatch) {
        if (auto defect = body(stage, microbatch)) return defect;
      }
    }
    return std::nullopt;
  }

  std::optional<Defect> index_all() {
    places_.assign(
        schedule_.placement.size() * static_cast<std::size_t>(schedule_.microbatches) * kinds,
        absent);
    return for_each_action(
        [&](const Action& action, int rank, int position) -> std::optional<Defect> {
          if (!has_microbatch(action.kind)) return std::nullopt;
          int& known = place(action.kind, action.stage, action.microbatch);
          if (known != absent) {
            return make_defect(Rule::completeness, rank, position, &action,
                               fmt::format("stands at position {} already", known));
          }
          known = position;
          return std::nullopt;
        });
  }

  std::optional<Defect> check_computes() {
    return for_each_unit([&](int stage, int mb) -> std::optional<Defect> {
      const int forward = place(Kind::forward, stage, mb);
      const int backward = place(Kind::backward, stage, mb);
      const int input = place(Kind::input_gradient, stage, mb);
      const int weight = place(Kind::weight_gradient, stage, mb);
      if (forward == absent) return missing(Rule::completeness, Kind::forward, stage, mb);
      if (backward != absent) {
        const Kind extra = input != absent ? Kind::input_gradient : Kind::weight_gradient;
        if (input != absent || weight != absent) {
          return misplaced(Rule::completeness, extra, stage, mb, "B does this already");
        }
        if (backward < forward)
          return misplaced(Rule::order, Kind::backward, stage, mb, "before F");
        return std::nullopt;
      }
      if (input == absent && weight == absent) {
        return missing(Rule::completeness, Kind::backward, stage, mb);
      }
      if (input == absent) return missing(Rule::completeness, Kind::input_gradient, stage, mb);
      if (weight == absent) return missing(Rule::completeness, Kind::weight_gradient, stage, mb);
      if (input < forward) {
        return misplaced(Rule::order, Kind::input_gradient, stage, mb, "before F");
      }
      if (weight < input) {
        return misplaced(Rule::order, Kind::weight_gradient, stage, mb, "before I");
      }
      return std::nullopt;
    });
  }

  /// Sums of gradients must not depend on the schedule: weight gradients by ascending micro-batch.
  std::optional<Defect> check_ascending() {
    std::vector<int> last(schedule_.placement.size(), -1);
    return for_each_action(
        [&](const Action& action, int rank, int position) -> std::optional<Defect> {
          if (!makes_weight_gradient(action.kind)) return std::nullopt;
          int& before = last[static_cast<std::size_t>(action.stage)];
          if (action.microbatch < before) {
            return make_defect(Rule::order, rank, position, &action,
                               fmt::format("after micro-batch {}, but weight gradients of a stage "
                                           "are summed by ascending micro-batch",
                                           before));
          }
          before = action.microbatch;
          return std::nullopt;
        });
  }

  Kind backward_kind(int stage, int microbatch) {
    return place(Kind::backward, stage, microbatch) != absent ? Kind::backward
                                                              : Kind::input_gradient;
  }

  std::optional<Defect> check_transfers() {
    if (!lowered_) return std::nullopt;
    return for_each_unit([&](int stage, int mb) -> std::optional<Defect> {
      const auto link = [&](bool forward) -> std::optional<Defect> {
        const Kind send = forward ? Kind::send_forward : Kind::send_backward;
        const Kind receive = forward ? Kind::receive_forward : Kind::receive_backward;
        const Kind compute = forward ? Kind::forward : backward_kind(stage, mb);
        const int target = forward ? stage + 1 : stage - 1;
        const int source = forward ? stage - 1 : stage + 1;
        const auto crosses = [&](int other) {
          return other >= 0 && other < schedule_.stages() && rank_of(other) != rank_of(stage);
        };
        const int sent = place(send, stage, mb);
        const int received = place(receive, stage, mb);
        const int computed = place(compute, stage, mb);
        if (crosses(target) != (sent != absent)) {
          return sent == absent ? missing(Rule::transfer, send, stage, mb)
                                : misplaced(Rule::transfer, send, stage, mb, "nobody waits for it");
        }
        if (crosses(source) != (received != absent)) {
          return received == absent
                     ? missing(Rule::transfer, receive, stage, mb)
                     : misplaced(Rule::transfer, receive, stage, mb, "nobody sends it");
        }
        if (sent != absent && sent < computed) {
          return misplaced(Rule::transfer, send, stage, mb,
                           fmt::format("before the {} that makes the data", to_string(compute)));
        }
        if (received != absent && received > computed) {
          return misplaced(Rule::transfer, receive, stage, mb,
                           fmt::format("after the {} that needs the data", to_string(compute)));
        }
        return std::nullopt;
      };
      if (auto defect = link(true)) return defect;
      return link(false);
    });
  }

  /// The k-th send of a lane must be the k-th receive: NCCL and MPI without tags match by order.
  std::optional<Defect> check_lanes() {
    if (!lowered_) return std::nullopt;
    struct End {
      Action action;
      int rank;
      int position;
    };
    std::map<Lane, std::vector<End>> sends;
    std::map<Lane, std::vector<End>> receives;
    for_each_action([&](const Action& action, int rank, int position) -> std::optional<Defect> {
      const End end{action, rank, position};
      if (is_send(action.kind)) {
        const bool forward = action.kind == Kind::send_forward;
        const int peer = rank_of(forward ? action.stage + 1 : action.stage - 1);
        sends[{rank, peer, forward}].push_back(end);
      } else if (is_receive(action.kind)) {
        const bool forward = action.kind == Kind::receive_forward;
        const int peer = rank_of(forward ? action.stage - 1 : action.stage + 1);
        receives[{peer, rank, forward}].push_back(end);
      }
      return std::nullopt;
    });
    for (const auto& [lane, sent] : sends) {
      const auto& received = receives[lane];
      for (std::size_t k = 0; k < sent.size(); ++k) {
        const Action& s = sent[k].action;
        const Action& r = received[k].action;
        const int target = lane.forward ? s.stage + 1 : s.stage - 1;
        if (r.stage == target && r.microbatch == s.microbatch) continue;
        return make_defect(
            Rule::transfer, received[k].rank, received[k].position, &r,
            fmt::format("receive {} of lane {} would take {} (rank {}, position {})", k,
                        to_string(lane), to_string(s), sent[k].rank, sent[k].position));
      }
    }
    return std::nullopt;
  }

  std::optional<Defect> check_reductions() {
    if (!schedule_.has_reductions()) return std::nullopt;
    std::vector<int> reduced(schedule_.placement.size(), absent);
    auto defect =
        for_each_action([&](const Action& action, int rank, int position) -> std::optional<Defect> {
          int& at = reduced[static_cast<std::size_t>(action.stage)];
          if (action.kind == Kind::reduce_gradient) {
            if (at != absent) {
              return make_defect(Rule::reduction, rank, position, &action,
                                 fmt::format("stands at position {} already", at));
            }
            at = position;
          } else if (makes_weight_gradient(action.kind) && at != absent) {
            return make_defect(Rule::reduction, rank, position, &action,
                               fmt::format("after REDUCE_GRAD at position {}", at));
          }
          return std::nullopt;
        });
    if (defect) return defect;
    for (int stage = 0; stage < schedule_.stages(); ++stage) {
      if (reduced[static_cast<std::size_t>(stage)] == absent) {
        return missing(Rule::reduction, Kind::reduce_gradient, stage, -1);
      }
    }
    return std::nullopt;
  }

  std::optional<Defect> check_sharding() {
    enum class State { unmanaged, whole, sharded };
    std::vector<State> states(schedule_.placement.size(), State::unmanaged);
    return for_each_action(
        [&](const Action& action, int rank, int position) -> std::optional<Defect> {
          State& state = states[static_cast<std::size_t>(action.stage)];
          const auto refuse = [&](std::string_view why) {
            return make_defect(Rule::sharding, rank, position, &action, why);
          };
          if (action.kind == Kind::unshard) {
            if (state == State::whole) return refuse("the stage is unsharded already");
            state = State::whole;
          } else if (action.kind == Kind::reshard) {
            if (state != State::whole) return refuse("the stage is not unsharded");
            state = State::sharded;
          } else if (is_compute(action.kind) && state == State::sharded) {
            return refuse("the stage is resharded");
          }
          return std::nullopt;
        });
  }

  const Schedule& schedule_;
  const bool lowered_;
  std::vector<int> places_;  ///< ((stage, mb), kind) -> position in its rank's list
};

}  // namespace

Defect make_defect(Rule rule, int rank, int position, const Action* action, std::string_view why) {
  std::string place;
  if (rank >= 0) place = fmt::format("rank {}, position {}, ", rank, position);
  const std::string subject = action == nullptr ? std::string{} : to_string(*action) + ": ";
  return {
      rule, rank, position, fmt::format("{}: {}{}{}", to_string(rule), place, subject, why), {}};
}

std::optional<Defect> check_sets(const Schedule& schedule) { return Checker{schedule}.run(); }

}  // namespace thinwire::pipeline
