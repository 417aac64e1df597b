#include "transport.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

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

/// The contexts of its messages on MPI communicators that others may use too.
struct Contexts {
  int data = 0;
  int control = 0;
};

Endpoint endpoint_on(MPI_Comm data, MPI_Comm control, Contexts contexts, MpiMembers members,
                     int place, std::size_t chunk_bytes, Timeout timeout) {
  auto channel = std::make_unique<MpiControlChannel>(control, contexts.control, members.ranks);
  return {std::make_unique<MpiTransport>(data, contexts.data, std::move(members), place,
                                         chunk_bytes, timeout),
          std::move(channel)};
}

}  // namespace

MpiTransport::MpiTransport(MPI_Comm group, int context, MpiMembers members, int place,
                           std::size_t chunk_bytes, Timeout timeout)
    : group_{group},
      context_{context},
      chunk_bytes_{chunk_bytes},
      timeout_{timeout},
      members_{std::move(members)},
      rank_{place} {
  const auto& hosts = members_.hosts;
  const auto me = hosts.begin() + place;
  local_rank_ = static_cast<int>(std::count(hosts.begin(), me, *me));
  local_size_ = static_cast<int>(std::count(hosts.begin(), hosts.end(), *me));
}

RequestHandle MpiTransport::isend(ConstByteView data, int peer, int tag) {
  auto request =
      std::make_unique<MpiRequest>(MpiRequest::Kind::send, peer, data.size, chunk_bytes_, drain_);
  for_each_chunk(data.size, chunk_bytes_, [&](std::size_t offset, int bytes) {
    MpiRuntime::get().call("MPI_Isend", MPI_Isend, data.data + offset, bytes, MPI_BYTE,
                           rank_in_group(peer), tag_in(context_, tag), group_, request->add());
  });
  return request;
}

RequestHandle MpiTransport::irecv(ByteView data, int peer, int tag) {
  auto request = std::make_unique<MpiRequest>(MpiRequest::Kind::receive, peer, data.size,
                                              chunk_bytes_, drain_);
  for_each_chunk(data.size, chunk_bytes_, [&](std::size_t offset, int bytes) {
    MpiRuntime::get().call("MPI_Irecv", MPI_Irecv, data.data + offset, bytes, MPI_BYTE,
                           rank_in_group(peer), tag_in(context_, tag), group_, request->add());
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

bool MpiTransport::has_own_group(std::size_t members) const {
  return static_cast<int>(members) == size_of(group_);
}

bool MpiTransport::take_split_number(int number, std::size_t members) {
  return has_own_group(members) || take_contexts(number);
}

Endpoint MpiTransport::split(const Split& split) {
  if (split.color < 0) return {};
  MpiMembers members;
  for (const int rank : split.members) {
    members.ranks.push_back(rank_in_group(rank));
    members.hosts.push_back(members_.hosts[static_cast<std::size_t>(rank)]);
  }
  if (has_own_group(split.members.size())) {
    // Of its own: MPI's allreduces on one communicator match by their order.
    const Wait wait{timeout_, split.waiting, split.late};
    const MPI_Comm data = duplicate(group_, wait);
    const MPI_Comm control = duplicate(group_, wait);
    return endpoint_on(data, control, {}, std::move(members), split.place, chunk_bytes_, timeout_);
  }
  // Making an MPI communicator takes all ranks of the group, and the others may not come.
  return endpoint_on(group_, group_, {split.number, split.number + 1}, std::move(members),
                     split.place, chunk_bytes_, timeout_);
}

Endpoint make_mpi_endpoint(MPI_Comm original, std::size_t chunk_bytes, Timeout timeout) {
  const Wait wait{timeout, {}, {}};
  const MPI_Comm data = duplicate(original, wait);
  const MPI_Comm control = duplicate(original, wait);
  MpiMembers members{std::vector<int>(static_cast<std::size_t>(size_of(data))),
                     host_names(data, wait)};
  std::iota(members.ranks.begin(), members.ranks.end(), 0);
  return endpoint_on(data, control, {}, std::move(members), rank_in(data), chunk_bytes, timeout);
}

}  // namespace thinwire::comm
