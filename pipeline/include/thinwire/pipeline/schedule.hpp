#pragma once

#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "thinwire/pipeline/action.hpp"

namespace thinwire::pipeline {

/// What every rank does in one training step, as data. Stages are numbered along the model; a
/// schedule is "compute only" (F B I W) or lowered (sends, receives and reductions placed too).
///
///   Schedule schedule = generate("1f1b", 4, 8);       // 4 ranks, 8 micro-batches
///   require_valid(schedule);                          // complete, ordered, free of deadlock
///   std::cout << to_csv(schedule, Flavour::compute_only);
///
/// A plain value: copy it, compare it, edit its lists; then validate it again.
struct Schedule {
  std::string name = "custom";
  int microbatches = 0;
  std::vector<int> placement;                ///< stage -> rank
  std::vector<std::vector<Action>> actions;  ///< rank -> its list, in program order

  int ranks() const { return static_cast<int>(actions.size()); }
  int stages() const { return static_cast<int>(placement.size()); }
  /// Stages of one rank, ascending.
  std::vector<int> stages_of(int rank) const;
  /// True if any list holds a send or a receive.
  bool has_transfers() const;
  /// True if any list holds a REDUCE_GRAD.
  bool has_reductions() const;

  friend bool operator==(const Schedule&, const Schedule&) = default;
};

/// Stage s on rank s mod p.
std::vector<int> loop_placement(int ranks, int chunks);
/// Stages r and 2p-1-r on rank r.
std::vector<int> v_placement(int ranks);

/// One direction of messages between two ranks, with its own order (a communicator and a stream of
/// its own at run time).
struct Lane {
  int source = 0;
  int destination = 0;
  bool forward = true;  ///< activations; else gradients

  friend bool operator==(const Lane&, const Lane&) = default;
  friend bool operator<(const Lane& a, const Lane& b) {
    return std::tie(a.source, a.destination, a.forward) <
           std::tie(b.source, b.destination, b.forward);
  }
};

/// The lanes a placement needs, in the global order in which they are to be connected.
std::vector<Lane> lanes_of(const std::vector<int>& placement);
/// "0>1F" or "1>0B".
std::string to_string(const Lane& lane);

/// Throws InvalidArgument that names rank, position and action unless every rank, stage and
/// micro-batch number is in range and every action stands on the rank of its stage.
void require_well_formed(const Schedule& schedule);

/// The text form: a header with everything a CSV lacks, then a line of cells per rank.
///
///   thinwire-schedule 1
///   name 1f1b
///   microbatches 2
///   placement 0 1
///   lanes 0>1F 1>0B
///   rank 0: 0F0 0F1 0B0 0B1
///   rank 1: 1F0 1B0 1F1 1B1
std::string to_text(const Schedule& schedule);
/// Inverse of to_text. Throws FormatError that names the line.
Schedule from_text(std::string_view text);

/// torch.distributed.pipelining's two files: without or with communication cells.
enum class Flavour { compute_only, compute_comms };

/// A row per rank, no header, CRLF-free. compute_only drops all but F B I W; compute_comms wants a
/// lowered schedule (InvalidArgument otherwise).
std::string to_csv(const Schedule& schedule, Flavour flavour);
/// Reads either flavour; placement and the number of micro-batches follow from the cells. Empty
/// cells are idle and are dropped. Throws FormatError that names row and cell.
Schedule from_csv(std::string_view text, Dialect dialect = Dialect::torch);

}  // namespace thinwire::pipeline
