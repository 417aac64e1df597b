#include "transport.hpp"

#include <algorithm>

#include "control_channel.hpp"
#include "reduce_ops.hpp"

namespace thinwire::comm {
namespace {

/// Calls visit(offset, bytes) for each chunk of a message; the last one is shorter than a full one.
template <typename Visitor>
void for_each_chunk(std::size_t bytes, std::size_t chunk_bytes, Visitor&& visit) {
  std::size_t offset = 0;
  for (; bytes - offset >= chunk_bytes; offset += chunk_bytes) {
    visit(offset, static_cast<int>(chunk_bytes));
  }
  visit(offset, static_cast<int>(bytes - offset));
}

}  // namespace

MpiTransport::MpiTransport(MPI_Comm group, std::size_t chunk_bytes, Timeout timeout)
    : group_{group},
      chunk_bytes_{chunk_bytes},
      timeout_{timeout},
      rank_{rank_in(group)},
      size_{size_of(group)} {
  auto& mpi = MpiRuntime::get();
  MPI_Comm host = MPI_COMM_NULL;
  mpi.call("MPI_Comm_split_type", MPI_Comm_split_type, group_, MPI_COMM_TYPE_SHARED, rank_,
           MPI_INFO_NULL, &host);
  local_rank_ = rank_in(host);
  local_size_ = size_of(host);
  mpi.call("MPI_Comm_free", MPI_Comm_free, &host);
}

RequestHandle MpiTransport::isend(ConstByteView data, int peer, int tag) {
  auto request =
      std::make_unique<MpiRequest>(MpiRequest::Kind::send, peer, data.size, chunk_bytes_, drain_);
  for_each_chunk(data.size, chunk_bytes_, [&](std::size_t offset, int bytes) {
    MpiRuntime::get().call("MPI_Isend", MPI_Isend, data.data + offset, bytes, MPI_BYTE, peer, tag,
                           group_, request->add());
  });
  return request;
}

RequestHandle MpiTransport::irecv(ByteView data, int peer, int tag) {
  auto request = std::make_unique<MpiRequest>(MpiRequest::Kind::receive, peer, data.size,
                                              chunk_bytes_, drain_);
  for_each_chunk(data.size, chunk_bytes_, [&](std::size_t offset, int bytes) {
    MpiRuntime::get().call("MPI_Irecv", MPI_Irecv, data.data + offset, bytes, MPI_BYTE, peer, tag,
                           group_, request->add());
  });
  return request;
}

RequestHandle MpiTransport::iallreduce(ConstTensorView in, TensorView out, ReduceOp op) {
  constexpr int no_peer = -1;
  auto request = std::make_unique<MpiRequest>(MpiRequest::Kind::collective, no_peer, out.bytes(),
                                              chunk_bytes_, drain_);
  const auto& reduction = mpi_reduction(in.dtype, op);
  const auto* from = static_cast<const std::byte*>(in.data);
  auto* to = static_cast<std::byte*>(out.data);
  const auto width = size_of(in.dtype);
  const auto chunk = std::max(chunk_bytes_ / width, std::size_t{1});
  for (std::size_t begin = 0; begin < static_cast<std::size_t>(in.numel); begin += chunk) {
    const auto count = std::min(chunk, static_cast<std::size_t>(in.numel) - begin);
    const void* source = in.data == out.data ? MPI_IN_PLACE : from + begin * width;
    MpiRuntime::get().call("MPI_Iallreduce", MPI_Iallreduce, source, to + begin * width,
                           static_cast<int>(count), reduction.type, reduction.op, group_,
                           request->add());
  }
  return request;
}

Endpoint MpiTransport::split(int color, int place, std::span<const int>) {
  auto& mpi = MpiRuntime::get();
  MPI_Comm part = MPI_COMM_NULL;
  mpi.call("MPI_Comm_split", MPI_Comm_split, group_, color < 0 ? MPI_UNDEFINED : color, place,
           &part);
  if (part == MPI_COMM_NULL) return {};
  auto endpoint = make_mpi_endpoint(part, chunk_bytes_, timeout_);
  mpi.call("MPI_Comm_free", MPI_Comm_free, &part);
  return endpoint;
}

Endpoint make_mpi_endpoint(MPI_Comm original, std::size_t chunk_bytes, Timeout timeout) {
  auto data = std::make_unique<MpiTransport>(duplicate(original, timeout), chunk_bytes, timeout);
  return {std::move(data), std::make_unique<MpiControlChannel>(duplicate(original, timeout))};
}

}  // namespace thinwire::comm
