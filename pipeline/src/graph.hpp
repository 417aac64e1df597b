#pragma once

#include <string>
#include <utility>
#include <vector>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// One thing that takes time: a compute action, a transfer (both ends in one node: rendezvous) or a
/// reduction.
struct Node {
  Action action;           ///< of a transfer: its send
  int rank = 0;            ///< of a transfer: the source
  int position = -1;       ///< in the source's list; -1: implied by a compute-only schedule
  int peer = -1;           ///< destination of a transfer
  int peer_position = -1;  ///< in the destination's list
  int producer = -1;       ///< node that makes the input (of a transfer: its data); -1: none
  int transfer = -1;       ///< node that brings the input; -1: same rank or none
};

/// The one graph behind validate() and simulate(): edges are compute order per rank, order per
/// lane, data, prefetch depth and host order. Needs a schedule whose actions are complete and whose
/// transfers pair up (see validator.cpp).
struct Graph {
  std::vector<Node> nodes;
  std::vector<std::vector<int>> compute;   ///< rank -> its compute nodes in program order
  std::vector<std::pair<int, int>> edges;  ///< before, after

  /// Nodes in an order that respects every edge; shorter than `nodes` if there is a cycle.
  std::vector<int> topological_order(std::vector<double>* earliest,
                                     const std::vector<double>& duration) const;
  /// Some cycle, each node waiting for the one before it and the first for the last.
  std::vector<int> find_cycle() const;
};

Graph build_graph(const Schedule& schedule, const Execution& execution);

/// "rank 1, position 4, 2F0" or "2SEND_F0 (rank 1, position 5 -> rank 2, position 3)".
std::string describe(const Node& node);

}  // namespace thinwire::pipeline
