#include "rendezvous.hpp"

#include <deque>
#include <map>
#include <set>
#include <string>
#include <tuple>

namespace thinwire::pipeline {
namespace {

using Unit = std::pair<int, int>;               // stage, micro-batch
using Stream = std::tuple<int, int, int, int>;  // rank, what, peer, direction

struct World {
  const Schedule& schedule;
  const Execution& execution;
  std::vector<std::size_t> issued;          // per rank: entries handed to streams
  std::vector<std::set<std::size_t>> done;  // per rank: positions completed
  std::map<Stream, std::deque<std::size_t>> streams;
  std::set<Unit> forwarded, input_made, weight_made;
  std::set<std::pair<bool, Unit>> received;  // forward?, receiving unit
  std::vector<int> last_weight;
  std::set<int> reduced;
  bool broken = false;

  const Action& action(int rank, std::size_t position) const {
    return schedule.actions[static_cast<std::size_t>(rank)][position];
  }
  int home(int stage) const { return schedule.placement[static_cast<std::size_t>(stage)]; }
  bool real(int stage) const { return stage >= 0 && stage < schedule.stages(); }

  /// The other end's stage of a send or receive.
  static int other_stage(const Action& a) {
    const bool up = a.kind == Kind::send_forward || a.kind == Kind::receive_backward;
    return a.stage + (up ? 1 : -1);
  }
  static bool carries_forward(const Action& a) {
    return a.kind == Kind::send_forward || a.kind == Kind::receive_forward;
  }

  Stream stream_of(int rank, const Action& a) const {
    if (is_compute(a.kind)) return {rank, 0, 0, 0};
    if (execution.one_lane) return {rank, 1, 0, 0};
    if (a.kind == Kind::reduce_gradient) return {rank, 2, 0, 0};
    const int peer = home(other_stage(a));
    return {rank, is_send(a.kind) ? 3 : 4, peer, carries_forward(a) ? 1 : 0};
  }

  bool in_list_before(int rank, std::size_t position, const Action& wanted) const {
    for (std::size_t i = 0; i < position; ++i) {
      Action a = action(rank, i);
      a.joined = false;
      if (a == wanted) return true;
    }
    return false;
  }

  bool fail() {
    broken = true;
    return false;
  }

  /// Issues what the host can reach.
  bool issue(int rank) {
    const auto r = static_cast<std::size_t>(rank);
    bool moved = false;
    while (issued[r] < schedule.actions[r].size()) {
      const std::size_t position = issued[r];
      if (position > 0 && execution.host != Execution::Host::asynchronous) {
        // Blocking: all before are complete. Posting in order: all compute before is complete.
        for (std::size_t i = 0; i < position; ++i) {
          const bool blocks =
              execution.host == Execution::Host::blocking || is_compute(action(rank, i).kind);
          if (blocks && !done[r].contains(i)) return moved;
        }
      }
      const Action& a = action(rank, position);
      if (home(a.stage) != rank) return fail();
      if ((is_send(a.kind) || is_receive(a.kind)) &&
          (!real(other_stage(a)) || home(other_stage(a)) == rank)) {
        return fail();
      }
      streams[stream_of(rank, a)].push_back(position);
      ++issued[r];
      moved = true;
    }
    return moved;
  }

  /// Is the input of a compute here? Breaks the world if it never was asked for.
  bool input_ready(int rank, std::size_t position, const Action& a, bool forward) {
    const int source = a.stage + (forward ? -1 : 1);
    if (!real(source)) return true;
    const Unit unit{a.stage, a.microbatch};
    if (home(source) == rank) {
      return (forward ? forwarded : input_made).contains({source, a.microbatch});
    }
    const Kind receive = forward ? Kind::receive_forward : Kind::receive_backward;
    if (!in_list_before(rank, position, {receive, false, a.stage, a.microbatch})) return fail();
    return received.contains({forward, unit});
  }

  bool run_compute(int rank, std::size_t position) {
    const Action& a = action(rank, position);
    const Unit unit{a.stage, a.microbatch};
    if (a.kind == Kind::forward) {
      if (!input_ready(rank, position, a, true)) return false;
      if (!forwarded.insert(unit).second) return fail();
    }
    if (makes_input_gradient(a.kind)) {
      if (!forwarded.contains(unit)) return fail();
      if (!input_ready(rank, position, a, false)) return false;
      if (!input_made.insert(unit).second) return fail();
    }
    if (makes_weight_gradient(a.kind)) {
      int& last = last_weight[static_cast<std::size_t>(a.stage)];
      if (!input_made.contains(unit) || a.microbatch <= last) return fail();
      if (!weight_made.insert(unit).second || reduced.contains(a.stage)) return fail();
      last = a.microbatch;
    }
    return true;
  }

  bool run_reduction(int rank, std::size_t position) {
    const Action& a = action(rank, position);
    for (int mb = 0; mb < schedule.microbatches; ++mb) {
      const bool asked =
          in_list_before(rank, position, {Kind::backward, false, a.stage, mb}) ||
          in_list_before(rank, position, {Kind::weight_gradient, false, a.stage, mb});
      if (!asked) return fail();
      if (!weight_made.contains({a.stage, mb})) return false;
    }
    return reduced.insert(a.stage).second || fail();
  }

  /// A send at the head of its stream meets the head of the peer's stream.
  bool run_send(int rank, std::size_t position) {
    const Action& a = action(rank, position);
    const bool forward = carries_forward(a);
    const Unit unit{a.stage, a.microbatch};
    const int target = other_stage(a);
    const int peer = home(target);
    bool asked = false;
    for (Kind maker : {Kind::forward, Kind::backward, Kind::input_gradient}) {
      if ((maker == Kind::forward) != forward) continue;
      asked |= in_list_before(rank, position, {maker, false, a.stage, a.microbatch});
    }
    if (!asked) return fail();
    if (!(forward ? forwarded : input_made).contains(unit)) return false;
    const Action wanted{forward ? Kind::receive_forward : Kind::receive_backward, false, target,
                        a.microbatch};
    const auto meeting = streams.find(stream_of(peer, wanted));
    if (meeting == streams.end() || meeting->second.empty()) return false;
    const std::size_t there = meeting->second.front();
    const Action& head = action(peer, there);
    const bool same_lane = is_receive(head.kind) && carries_forward(head) == forward &&
                           home(other_stage(head)) == rank;
    if (!same_lane) return false;
    if (!(head == wanted)) return fail();  // another message than the one expected
    if (!received.insert({forward, {target, a.microbatch}}).second) return fail();
    meeting->second.pop_front();
    done[static_cast<std::size_t>(peer)].insert(there);
    return true;
  }

  bool step() {
    bool moved = false;
    for (int rank = 0; rank < schedule.ranks() && !broken; ++rank) moved |= issue(rank);
    for (auto& [stream, queue] : streams) {
      if (broken || queue.empty()) continue;
      const int rank = std::get<0>(stream);
      const std::size_t position = queue.front();
      const Kind kind = action(rank, position).kind;
      bool ran = false;
      if (is_compute(kind)) {
        ran = run_compute(rank, position);
      } else if (kind == Kind::reduce_gradient) {
        ran = run_reduction(rank, position);
      } else if (is_send(kind)) {
        ran = run_send(rank, position);
      }
      if (!ran || broken) continue;
      queue.pop_front();
      done[static_cast<std::size_t>(rank)].insert(position);
      moved = true;
    }
    return moved && !broken;
  }
};

}  // namespace

bool runs_to_the_end(const Schedule& schedule, const Execution& execution) {
  const auto ranks = static_cast<std::size_t>(schedule.ranks());
  World world{schedule,
              execution,
              std::vector<std::size_t>(ranks, 0),
              std::vector<std::set<std::size_t>>(ranks),
              {},
              {},
              {},
              {},
              {},
              std::vector<int>(schedule.placement.size(), -1),
              {}};
  while (world.step()) {
  }
  if (world.broken) return false;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    if (world.done[rank].size() != schedule.actions[rank].size()) return false;
  }
  const auto units = schedule.placement.size() * static_cast<std::size_t>(schedule.microbatches);
  return world.forwarded.size() == units && world.input_made.size() == units &&
         world.weight_made.size() == units && world.reduced.size() == schedule.placement.size();
}

}  // namespace thinwire::pipeline
