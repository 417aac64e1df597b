#pragma once

#include <string>
#include <vector>

#include "contexts.hpp"
#include "mpi_requests.hpp"
#include "point_to_point.hpp"
#include "runtime.hpp"

namespace thinwire::comm {

/// The ranks of a transport as the MPI communicator counts them that it lives on. A split keeps to
/// a copy of its parent's communicator: MPI_Comm_split blocks, and for ever when a rank has died.
struct MpiMembers {
  std::vector<int> ranks;
  std::vector<std::string> hosts;  ///< their names, in the same order
};

/// Non-blocking MPI on a communicator of its own, or one shared with splits of other colors.
///
/// A message is cut into chunks, because MPI 3 counts in int: full chunks and then one that is
/// shorter, possibly empty. No such sequence begins another one, so a receiver that expects another
/// size always notices.
class MpiTransport final : public PointToPoint {
 public:
  /// `context`: keeps its messages apart from those of other transports on the same `group`.
  MpiTransport(MPI_Comm group, int context, MpiMembers members, int place, std::size_t chunk_bytes,
               Timeout timeout);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.ranks.size()); }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  std::string_view name() const override { return "mpi"; }

  RequestHandle isend(ConstByteView data, int peer, int tag) override;
  RequestHandle irecv(ByteView data, int peer, int tag) override;

  /// MPI's own needs all ranks of the MPI communicator.
  bool has_allreduce() const override { return size() == size_of(group_); }
  RequestHandle iallreduce(ConstTensorView in, TensorView out, ReduceOp op) override;

  int split_number() override { return free_context(); }
  bool take_split_number(int number, std::size_t members) override;
  Endpoint split(const Split& split) override;

 private:
  /// Whether a split of so many members gets an MPI communicator of its own.
  bool has_own_group(std::size_t members) const;
  int rank_in_group(int peer) const { return members_.ranks[static_cast<std::size_t>(peer)]; }

  const MPI_Comm group_;
  const int context_;
  const std::size_t chunk_bytes_;
  const Timeout timeout_;
  const MpiMembers members_;
  const int rank_;
  int local_rank_;
  int local_size_;
  DrainBudget drain_;
};

/// A transport and a control channel among all ranks, over copies of `original`. Collective.
Endpoint make_mpi_endpoint(MPI_Comm original, std::size_t chunk_bytes, Timeout timeout);

}  // namespace thinwire::comm
