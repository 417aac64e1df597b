#include "graph.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/lowering.hpp"

namespace thinwire::pipeline {
namespace {

/// Successors of every node in one array.
struct Successors {
  std::vector<int> begin;
  std::vector<int> items;

  Successors(std::size_t nodes, const std::vector<std::pair<int, int>>& edges)
      : begin(nodes + 1, 0), items(edges.size()) {
    for (const auto& [from, to] : edges) ++begin[static_cast<std::size_t>(from) + 1];
    for (std::size_t i = 0; i < nodes; ++i) begin[i + 1] += begin[i];
    std::vector<int> fill{begin.begin(), begin.end() - 1};
    for (const auto& [from, to] : edges) {
      items[static_cast<std::size_t>(fill[static_cast<std::size_t>(from)]++)] = to;
    }
  }
};

class Builder {
 public:
  Builder(const Schedule& schedule, const Execution& execution)
      : schedule_{schedule}, execution_{execution}, explicit_{schedule.has_transfers()} {
    const std::size_t items =
        schedule.placement.size() * static_cast<std::size_t>(schedule.microbatches);
    forward_.assign(items, -1);
    input_.assign(items, -1);
    forward_transfer_.assign(items, -1);
    input_transfer_.assign(items, -1);
    graph_.compute.resize(schedule.actions.size());
  }

  Graph build() {
    add_nodes();
    if (!explicit_) imply_transfers();
    link_data();
    link_lanes();
    if (execution_.host != Execution::Host::asynchronous) link_host();
    return std::move(graph_);
  }

 private:
  struct Receive {
    int rank;
    int position;
    std::size_t entry;
  };

  std::vector<int>& outgoing(bool forward) { return forward ? forward_transfer_ : input_transfer_; }
  int& at(std::vector<int>& table, int stage, int microbatch) const {
    return table[static_cast<std::size_t>(stage) *
                     static_cast<std::size_t>(schedule_.microbatches) +
                 static_cast<std::size_t>(microbatch)];
  }
  Node& node(int index) { return graph_.nodes[static_cast<std::size_t>(index)]; }
  int rank_of(int stage) const { return schedule_.placement[static_cast<std::size_t>(stage)]; }
  void edge(int before, int after) { graph_.edges.emplace_back(before, after); }

  /// Adds a node and returns its index.
  int add(const Action& action, int rank, int position) {
    Node& fresh = graph_.nodes.emplace_back();
    fresh.action = action;
    fresh.rank = rank;
    fresh.position = position;
    return static_cast<int>(graph_.nodes.size()) - 1;
  }

  /// Compute, reductions and (from their sends) transfers. Receives find their transfer afterwards.
  void add_nodes() {
    entries_.resize(schedule_.actions.size());
    std::vector<Receive> receives;
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      const auto& list = schedule_.actions[static_cast<std::size_t>(rank)];
      auto& entries = entries_[static_cast<std::size_t>(rank)];
      std::vector<int> last_weight(schedule_.placement.size(), -1);
      int last_reduction = -1;
      for (int position = 0; position < static_cast<int>(list.size()); ++position) {
        const Action& action = list[static_cast<std::size_t>(position)];
        if (is_compute(action.kind)) {
          const int index = add(action, rank, position);
          graph_.compute[static_cast<std::size_t>(rank)].push_back(index);
          if (action.kind == Kind::forward) at(forward_, action.stage, action.microbatch) = index;
          if (makes_input_gradient(action.kind)) {
            at(input_, action.stage, action.microbatch) = index;
          }
          if (makes_weight_gradient(action.kind)) {
            last_weight[static_cast<std::size_t>(action.stage)] = index;
          }
          entries.push_back(index);
        } else if (is_send(action.kind)) {
          const int index = add(action, rank, position);
          at(outgoing(action.kind == Kind::send_forward), action.stage, action.microbatch) = index;
          entries.push_back(index);
        } else if (is_receive(action.kind)) {
          receives.push_back({rank, position, entries.size()});
          entries.push_back(-1);
        } else if (action.kind == Kind::reduce_gradient) {
          const int index = add(action, rank, position);
          const int before = last_weight[static_cast<std::size_t>(action.stage)];
          if (before >= 0) edge(before, index);
          if (last_reduction >= 0) edge(last_reduction, index);
          last_reduction = index;
          entries.push_back(index);
        }
      }
    }
    for (const Receive& receive : receives) attach(receive);
  }

  void attach(const Receive& receive) {
    const auto rank = static_cast<std::size_t>(receive.rank);
    const Action& action = schedule_.actions[rank][static_cast<std::size_t>(receive.position)];
    const bool forward = action.kind == Kind::receive_forward;
    const int index =
        at(outgoing(forward), forward ? action.stage - 1 : action.stage + 1, action.microbatch);
    node(index).peer = receive.rank;
    node(index).peer_position = receive.position;
    entries_[rank][receive.entry] = index;
  }

  /// A compute-only schedule sends right after the compute, to every neighbour on another rank.
  void imply_transfers() {
    for (int rank = 0; rank < schedule_.ranks(); ++rank) {
      for (int producer : graph_.compute[static_cast<std::size_t>(rank)]) {
        const Action action = node(producer).action;
        const bool forward = action.kind == Kind::forward;
        if (!forward && !makes_input_gradient(action.kind)) continue;
        const int target = forward ? action.stage + 1 : action.stage - 1;
        if (target < 0 || target >= schedule_.stages() || rank_of(target) == rank) continue;
        const int index = add({forward ? Kind::send_forward : Kind::send_backward, false,
                               action.stage, action.microbatch},
                              rank, -1);
        node(index).peer = rank_of(target);
        at(outgoing(forward), action.stage, action.microbatch) = index;
      }
    }
  }

  void link_data() {
    for (const auto& list : graph_.compute) {
      for (std::size_t i = 0; i < list.size(); ++i) {
        if (i > 0) edge(list[i - 1], list[i]);
        link_input(list[i]);
      }
    }
  }

  void link_input(int consumer) {
    const Action action = node(consumer).action;
    const bool forward = action.kind == Kind::forward;
    if (!forward && !makes_input_gradient(action.kind)) return;
    const int source = forward ? action.stage - 1 : action.stage + 1;
    if (source < 0 || source >= schedule_.stages()) return;
    const int producer = at(forward ? forward_ : input_, source, action.microbatch);
    node(consumer).producer = producer;
    if (rank_of(source) == rank_of(action.stage)) {
      edge(producer, consumer);
      return;
    }
    const int transfer = at(outgoing(forward), source, action.microbatch);
    node(consumer).transfer = transfer;
    node(transfer).producer = producer;
    edge(producer, transfer);
    edge(transfer, consumer);
  }

  void link_lanes() {
    std::map<Lane, std::vector<int>> lanes;
    for (int index = 0; index < static_cast<int>(graph_.nodes.size()); ++index) {
      const Node& transfer = node(index);
      if (!is_send(transfer.action.kind)) continue;
      lanes[{transfer.rank, transfer.peer, transfer.action.kind == Kind::send_forward}].push_back(
          index);
    }
    for (const auto& [lane, order] : lanes) {
      for (std::size_t k = 1; k < order.size(); ++k) edge(order[k - 1], order[k]);
      const auto depth = static_cast<std::size_t>(execution_.prefetch);
      for (std::size_t k = depth; depth > 0 && k < order.size(); ++k) {
        edge(consumer_of(order[k - depth]), order[k]);
      }
    }
    if (!execution_.one_lane) return;
    for (const auto& entries : entries_) {
      int last = -1;
      for (int entry : entries) {
        if (is_compute(node(entry).action.kind)) continue;
        if (last >= 0) edge(last, entry);
        last = entry;
      }
    }
  }

  int consumer_of(int transfer) {
    const Action action = node(transfer).action;
    const bool forward = action.kind == Kind::send_forward;
    return at(forward ? forward_ : input_, forward ? action.stage + 1 : action.stage - 1,
              action.microbatch);
  }

  void link_host() {
    const bool blocking = execution_.host == Execution::Host::blocking;
    for (const auto& entries : entries_) {
      int last = -1;  // what the host waits for before it issues the next entry
      for (int entry : entries) {
        if (last >= 0) edge(last, entry);
        if (blocking || is_compute(node(entry).action.kind)) last = entry;
      }
    }
  }

  const Schedule& schedule_;
  const Execution& execution_;
  const bool explicit_;
  Graph graph_;
  std::vector<int> forward_;           ///< (stage, mb) -> node of F
  std::vector<int> input_;             ///< (stage, mb) -> node of B or I
  std::vector<int> forward_transfer_;  ///< (stage, mb) -> node of the transfer of F's output
  std::vector<int> input_transfer_;    ///< (stage, mb) -> node of the transfer of B's or I's output
  std::vector<std::vector<int>> entries_;  ///< rank -> nodes in list order, transfers at both ends
};

}  // namespace

std::vector<int> Graph::topological_order(std::vector<double>* earliest,
                                          const std::vector<double>& duration) const {
  const Successors successors{nodes.size(), edges};
  std::vector<int> waiting(nodes.size(), 0);
  for (const auto& [from, to] : edges) ++waiting[static_cast<std::size_t>(to)];
  std::vector<int> order;
  order.reserve(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (waiting[i] == 0) order.push_back(static_cast<int>(i));
  }
  if (earliest != nullptr) earliest->assign(nodes.size(), 0.0);
  for (std::size_t head = 0; head < order.size(); ++head) {
    const auto from = static_cast<std::size_t>(order[head]);
    for (int e = successors.begin[from]; e < successors.begin[from + 1]; ++e) {
      const auto to = static_cast<std::size_t>(successors.items[static_cast<std::size_t>(e)]);
      if (earliest != nullptr) {
        (*earliest)[to] = std::max((*earliest)[to], (*earliest)[from] + duration[from]);
      }
      if (--waiting[to] == 0) order.push_back(static_cast<int>(to));
    }
  }
  return order;
}

std::vector<int> Graph::find_cycle() const {
  std::vector<bool> free(nodes.size(), false);
  for (int index : topological_order(nullptr, {})) free[static_cast<std::size_t>(index)] = true;
  std::vector<int> before(nodes.size(), -1);
  int start = -1;
  for (const auto& [from, to] : edges) {
    if (free[static_cast<std::size_t>(from)] || free[static_cast<std::size_t>(to)]) continue;
    before[static_cast<std::size_t>(to)] = from;
    start = to;
  }
  if (start < 0) return {};
  // Every blocked node has a blocked node before it: walking back must come round.
  std::vector<bool> seen(nodes.size(), false);
  while (!seen[static_cast<std::size_t>(start)]) {
    seen[static_cast<std::size_t>(start)] = true;
    start = before[static_cast<std::size_t>(start)];
  }
  std::vector<int> cycle{start};
  for (int at = before[static_cast<std::size_t>(start)]; at != start;
       at = before[static_cast<std::size_t>(at)]) {
    cycle.push_back(at);
  }
  std::reverse(cycle.begin(), cycle.end());
  return cycle;
}

Graph build_graph(const Schedule& schedule, const Execution& execution) {
  THINWIRE_EXPECTS(execution.prefetch >= 0, InvalidArgument,
                   fmt::format("a prefetch depth of {}", execution.prefetch));
  if (!schedule.has_transfers() && execution != Execution{}) {
    const Schedule lowered = place_transfers(schedule);  // receives need places in the lists
    return Builder{lowered, execution}.build();
  }
  return Builder{schedule, execution}.build();
}

std::string describe(const Node& node) {
  if (node.peer < 0) {
    return fmt::format("rank {}, position {}, {}", node.rank, node.position,
                       to_string(node.action));
  }
  const auto end = [](int rank, int position) {
    return position < 0 ? fmt::format("rank {}", rank)
                        : fmt::format("rank {}, position {}", rank, position);
  };
  return fmt::format("{} ({} -> {})", to_string(node.action), end(node.rank, node.position),
                     end(node.peer, node.peer_position));
}

}  // namespace thinwire::pipeline
