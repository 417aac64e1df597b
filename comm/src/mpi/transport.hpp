#pragma once

#include "mpi_requests.hpp"
#include "point_to_point.hpp"
#include "runtime.hpp"

namespace thinwire::comm {

/// Non-blocking MPI on a communicator of its own.
///
/// A message is cut into chunks, because MPI 3 counts in int: full chunks and then one that is
/// shorter, possibly empty. No such sequence begins another one, so a receiver that expects another
/// size always notices.
class MpiTransport final : public PointToPoint {
 public:
  MpiTransport(MPI_Comm group, std::size_t chunk_bytes, Timeout timeout);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  std::string_view name() const override { return "mpi"; }

  RequestHandle isend(ConstByteView data, int peer, int tag) override;
  RequestHandle irecv(ByteView data, int peer, int tag) override;

  bool has_allreduce() const override { return true; }
  RequestHandle iallreduce(ConstTensorView in, TensorView out, ReduceOp op) override;

  /// MPI_Comm_split blocks, but all ranks are on their way into it: they have just agreed to.
  Endpoint split(int color, int place, std::span<const int> members) override;

 private:
  const MPI_Comm group_;
  const std::size_t chunk_bytes_;
  const Timeout timeout_;
  int rank_;
  int size_;
  int local_rank_;
  int local_size_;
  DrainBudget drain_;
};

/// A transport and a control channel over copies of `original`. Collective.
Endpoint make_mpi_endpoint(MPI_Comm original, std::size_t chunk_bytes, Timeout timeout);

}  // namespace thinwire::comm
