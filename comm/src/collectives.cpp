#include "collectives.hpp"

#include <fmt/format.h>

#include <cstring>

#include "reduce.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

constexpr auto receive = Transfer::Way::receive;
constexpr auto send = Transfer::Way::send;

std::byte* add_scratch(Recipe& recipe, std::size_t bytes) {
  return recipe.scratch.emplace_back(default_memory(), bytes, "collective").data();
}

/// Transfers are read through a pointer that could write; what is sent is not written.
std::byte* sendable(const std::byte* data) { return const_cast<std::byte*>(data); }

void copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes != 0 && to != from) std::memcpy(to, from, bytes);
}

/// The other ranks, each rank beginning with its successor, so that not all write to one at a time.
template <typename Visitor>
void for_each_peer(const PointToPoint& transport, Visitor&& visit) {
  for (int k = 1; k < transport.size(); ++k) visit((transport.rank() + k) % transport.size());
}

/// What all ranks of a reduction must agree in.
struct Agreement {
  std::uint64_t numel;
  std::uint32_t dtype;
  std::uint32_t op;
  bool operator==(const Agreement&) const = default;
};

std::string to_text(const Agreement& agreement) {
  constexpr std::string_view ops[] = {"sum", "avg", "max"};
  return fmt::format("{} elements of {}, {}", agreement.numel,
                     agreement.dtype <= 2 ? to_string(static_cast<DType>(agreement.dtype)) : "?",
                     agreement.op <= 2 ? ops[agreement.op] : "?");
}

/// Each rank tells the next one what it reduces: if any two differ, then two neighbours do. Rides
/// along with the first step's data.
void add_agreement(Recipe& recipe, Step& step, const PointToPoint& transport,
                   ConstTensorView tensor, ReduceOp op) {
  const int next = (transport.rank() + 1) % transport.size();
  const int previous = (transport.rank() + transport.size() - 1) % transport.size();
  if (next == transport.rank()) return;
  const Agreement mine{static_cast<std::uint64_t>(tensor.numel),
                       static_cast<std::uint32_t>(tensor.dtype), static_cast<std::uint32_t>(op)};
  std::byte* scratch = add_scratch(recipe, 2 * sizeof mine);
  std::memcpy(scratch, &mine, sizeof mine);
  step.transfers.push_back({send, next, scratch, sizeof mine});
  std::byte* heard = scratch + sizeof mine;
  auto check = [heard, mine, previous, rank = transport.rank(), name = recipe.name] {
    Agreement theirs;
    std::memcpy(&theirs, heard, sizeof theirs);
    if (mine == theirs) return;
    throw MismatchError{fmt::format("rank {}: {}", rank, name), "what is reduced", to_text(mine),
                        to_text(theirs), previous};
  };
  step.transfers.push_back({receive, previous, heard, sizeof mine, check});
}

std::vector<const std::byte*> gather_inputs(const PointToPoint& transport, const std::byte* mine,
                                            const std::byte* others, std::size_t bytes) {
  std::vector<const std::byte*> inputs;
  for (int r = 0; r < transport.size(); ++r) {
    inputs.push_back(r == transport.rank() ? mine : others);
    if (r != transport.rank()) others += bytes;
  }
  return inputs;
}

/// Parts of a tensor of any size, equal to one element.
std::vector<Part> split_elements(const PointToPoint& transport, ConstTensorView tensor) {
  std::vector<Part> parts;
  const std::int64_t ranks = transport.size();
  const auto width = size_of(tensor.dtype);
  for (std::int64_t r = 0; r < ranks; ++r) {
    const auto begin = tensor.numel / ranks * r + std::min(tensor.numel % ranks, r);
    const auto count = tensor.numel / ranks + (r < tensor.numel % ranks ? 1 : 0);
    parts.push_back(
        {static_cast<std::size_t>(begin) * width, static_cast<std::size_t>(count) * width});
  }
  return parts;
}

}  // namespace

void add_all_to_all(Recipe& recipe, const PointToPoint& transport, ConstByteView in,
                    std::span<const Part> in_parts, ByteView out, std::span<const Part> out_parts) {
  if (in.data == out.data && transport.size() > 1) {
    std::byte* kept = add_scratch(recipe, in.size);
    copy(kept, in.data, in.size);
    in = {kept, in.size};
  }
  Step step;
  for_each_peer(transport, [&](int peer) {
    const auto& from = out_parts[static_cast<std::size_t>(peer)];
    const auto& to = in_parts[static_cast<std::size_t>(peer)];
    step.transfers.push_back({receive, peer, out.data + from.offset, from.bytes});
    step.transfers.push_back({send, peer, sendable(in.data) + to.offset, to.bytes});
  });
  const auto me = static_cast<std::size_t>(transport.rank());
  copy(out.data + out_parts[me].offset, in.data + in_parts[me].offset, in_parts[me].bytes);
  recipe.steps.push_back(std::move(step));
}

void add_all_gather(Recipe& recipe, const PointToPoint& transport, ConstByteView in, ByteView out,
                    std::span<const Part> parts) {
  Step step;
  for_each_peer(transport, [&](int peer) {
    const auto& part = parts[static_cast<std::size_t>(peer)];
    step.transfers.push_back({receive, peer, out.data + part.offset, part.bytes});
    step.transfers.push_back({send, peer, sendable(in.data), in.size});
  });
  copy(out.data + parts[static_cast<std::size_t>(transport.rank())].offset, in.data, in.size);
  recipe.steps.push_back(std::move(step));
}

void add_reduce_scatter(Recipe& recipe, const PointToPoint& transport, ConstTensorView in,
                        std::span<const Part> parts, std::byte* out, ReduceOp op) {
  const auto* data = static_cast<const std::byte*>(in.data);
  const auto mine = parts[static_cast<std::size_t>(transport.rank())];
  const auto others = static_cast<std::size_t>(transport.size() - 1);
  std::byte* heard = add_scratch(recipe, others * mine.bytes);
  const auto inputs = gather_inputs(transport, data + mine.offset, heard, mine.bytes);

  Step step;
  add_agreement(recipe, step, transport, in, op);
  for_each_peer(transport, [&](int peer) {
    const auto i = static_cast<std::size_t>(peer);
    step.transfers.push_back({receive, peer, const_cast<std::byte*>(inputs[i]), mine.bytes});
    step.transfers.push_back({send, peer, sendable(data) + parts[i].offset, parts[i].bytes});
  });
  const auto numel = static_cast<std::int64_t>(mine.bytes / size_of(in.dtype));
  step.finish = [inputs, out, op, numel, dtype = in.dtype] {
    reduce_in_order(dtype, op, inputs, out, numel);
  };
  recipe.steps.push_back(std::move(step));
}

void add_allreduce(Recipe& recipe, PointToPoint& transport, ConstTensorView in, TensorView out,
                   ReduceOp op) {
  auto* result = static_cast<std::byte*>(out.data);
  if (transport.has_allreduce() && transport.size() > 1) {
    Step step;
    add_agreement(recipe, step, transport, in, op);
    step.native = [&transport, in, out, op] {
      return transport.iallreduce(in, out, op == ReduceOp::avg ? ReduceOp::sum : op);
    };
    if (op == ReduceOp::avg) {
      step.finish = [result, out, factor = 1.0f / static_cast<float>(transport.size())] {
        scale(out.dtype, result, out.numel, factor);
      };
    }
    recipe.steps.push_back(std::move(step));
    return;
  }
  const auto parts = split_elements(transport, in);
  const auto mine = parts[static_cast<std::size_t>(transport.rank())];
  std::byte* reduced = result + mine.offset;
  add_reduce_scatter(recipe, transport, in, parts, reduced, op);
  add_all_gather(recipe, transport, {reduced, mine.bytes}, {result, out.bytes()}, parts);
}

void add_broadcast(Recipe& recipe, const PointToPoint& transport, ByteView data, int root) {
  const int size = transport.size();
  const int place = (transport.rank() + size - root) % size;  // the root stands at 0
  const auto rank_at = [&](int at) { return (at + root) % size; };
  if (transport.exchanges_steps()) {  // in a tree's steps most ranks would take no part
    Step step;
    if (place != 0) {
      step.transfers.push_back({receive, root, data.data, data.size});
    } else {
      for_each_peer(transport, [&](int peer) {
        step.transfers.push_back({send, peer, data.data, data.size});
      });
    }
    recipe.steps.push_back(std::move(step));
    return;
  }
  int span = 1;  // of the subtree below this place
  while (span < size && (place & span) == 0) span *= 2;
  if (place != 0) {
    Step step;
    step.transfers.push_back({receive, rank_at(place - span), data.data, data.size});
    recipe.steps.push_back(std::move(step));
  }
  Step step;
  for (int child = span / 2; child > 0; child /= 2) {
    if (place + child >= size) continue;
    step.transfers.push_back({send, rank_at(place + child), data.data, data.size});
  }
  recipe.steps.push_back(std::move(step));
}

void add_barrier(Recipe& recipe, const PointToPoint& transport) {
  const int size = transport.size();
  for (int distance = 1; distance < size; distance *= 2) {
    Step step;
    step.transfers.push_back({receive, (transport.rank() + size - distance) % size, nullptr, 0});
    step.transfers.push_back({send, (transport.rank() + distance) % size, nullptr, 0});
    recipe.steps.push_back(std::move(step));
  }
}

}  // namespace thinwire::comm
