#include "point_to_point_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

constexpr int point_to_point_tag = 0;

/// Throws InvalidArgument unless the views are host memory that is there.
template <typename View>
void expect_host(std::string_view operation, std::string_view name, const View& view,
                 std::size_t bytes) {
  THINWIRE_EXPECTS(
      view.device == Device::host, InvalidArgument,
      fmt::format("{}: '{}' is on a device; this communicator takes host memory", operation, name));
  THINWIRE_EXPECTS(view.data != nullptr || bytes == 0, InvalidArgument,
                   fmt::format("{}: '{}' is null but has {} bytes", operation, name, bytes));
}

void expect_apart(std::string_view operation, const void* in, std::size_t in_bytes, const void* out,
                  std::size_t out_bytes) {
  const auto* a = static_cast<const std::byte*>(in);
  const auto* b = static_cast<const std::byte*>(out);
  if (in_bytes == 0 || out_bytes == 0 || (a == b && in_bytes == out_bytes)) return;
  const std::less<> before;
  THINWIRE_EXPECTS(
      !before(a, b + out_bytes) || !before(b, a + in_bytes), InvalidArgument,
      fmt::format("{}: in ({} bytes) and out ({} bytes) overlap; they must be apart, or one and "
                  "the same buffer of one size",
                  operation, in_bytes, out_bytes));
}

void expect_tensors(std::string_view operation, ConstTensorView in, TensorView out,
                    std::int64_t in_numel) {
  THINWIRE_EXPECTS(
      in.numel >= 0 && out.numel >= 0, InvalidArgument,
      fmt::format("{}: negative size ({} and {} elements)", operation, in.numel, out.numel));
  THINWIRE_EXPECTS(in.dtype == out.dtype, InvalidArgument,
                   fmt::format("{}: in is {} but out is {}", operation, to_string(in.dtype),
                               to_string(out.dtype)));
  THINWIRE_EXPECTS(
      in.numel == in_numel, InvalidArgument,
      fmt::format("{}: in has {} elements where out asks for {}", operation, in.numel, in_numel));
  expect_host(operation, "in", in, in.bytes());
  expect_host(operation, "out", out, out.bytes());
}

std::vector<Part> equal_parts(int count, std::size_t bytes) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    parts.push_back({i * bytes, bytes});
  }
  return parts;
}

std::vector<Part> given_parts(std::string_view operation, std::string_view name, int count,
                              std::span<const std::size_t> bytes,
                              std::span<const std::size_t> offsets, std::size_t limit) {
  const auto expected = static_cast<std::size_t>(count);
  THINWIRE_EXPECTS(bytes.size() == expected && offsets.size() == expected, InvalidArgument,
                   fmt::format("{}: {} sizes and {} offsets of '{}' for {} ranks", operation,
                               bytes.size(), offsets.size(), name, count));
  std::vector<Part> parts;
  for (std::size_t i = 0; i < expected; ++i) {
    THINWIRE_EXPECTS(bytes[i] <= limit && offsets[i] <= limit - bytes[i], InvalidArgument,
                     fmt::format("{}: part {} of '{}' ({} bytes at {}) leaves the buffer of {} "
                                 "bytes",
                                 operation, i, name, bytes[i], offsets[i], limit));
    parts.push_back({offsets[i], bytes[i]});
  }
  return parts;
}

}  // namespace

PointToPointCommunicator::PointToPointCommunicator(Endpoint endpoint, ChannelControlPlane* parent,
                                                   std::vector<int> members)
    : transport_{std::move(endpoint.data)},
      control_{transport_->rank(), transport_->size(), std::move(endpoint.control), parent,
               std::move(members)},
      works_{*transport_, control_},
      exceptions_at_start_{std::uncaught_exceptions()} {}

PointToPointCommunicator::~PointToPointCommunicator() {
  // Where the reason is known already (a time-out in the parent), that is what others shall hear.
  if (std::uncaught_exceptions() > exceptions_at_start_ && !control_.abort_notice()) {
    abort("an exception ended the scope of its communicator", -1);
  }
}

Recipe PointToPointCommunicator::collective(std::string_view name, std::size_t bytes) {
  // Operations under way together are told apart by their tag; tag 0 is for send and recv.
  const auto tag = 1 + static_cast<int>(next_tag_++ % PointToPoint::max_tag);
  return {fmt::format("{} of {} bytes", name, bytes), tag, {}, {}};
}

Recipe PointToPointCommunicator::single(std::string name) {
  return {std::move(name), point_to_point_tag, {}, {}};
}

WorkHandle PointToPointCommunicator::start(Recipe recipe) {
  return std::make_unique<CollectiveWork>(works_, std::move(recipe));
}

WorkHandle PointToPointCommunicator::allreduce(ConstTensorView in, TensorView out, ReduceOp op,
                                               StreamView) {
  expect_tensors("allreduce", in, out, out.numel);
  expect_apart("allreduce", in.data, in.bytes(), out.data, out.bytes());
  auto recipe = collective("allreduce", in.bytes());
  add_allreduce(recipe, *transport_, in, out, op);
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::allreduce_max(std::span<std::uint64_t> words, StreamView) {
  const auto bytes = words.size_bytes();
  auto recipe = collective("allreduce_max", bytes);
  const auto ranks = static_cast<std::size_t>(size());
  std::byte* all =
      recipe.scratch.emplace_back(default_memory(), ranks * bytes, "collective").data();
  add_all_gather(recipe, *transport_, {reinterpret_cast<const std::byte*>(words.data()), bytes},
                 {all, ranks * bytes}, equal_parts(size(), bytes));
  recipe.steps.back().finish = [all, ranks, words] {
    for (std::size_t i = 0; i < ranks * words.size(); ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, all + i * sizeof word, sizeof word);
      auto& largest = words[i % words.size()];
      largest = std::max(largest, word);
    }
  };
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                                                    StreamView) {
  expect_tensors("reduce_scatter", in, out, out.numel * size());
  expect_apart("reduce_scatter", in.data, in.bytes(), out.data, out.bytes());
  auto recipe = collective("reduce_scatter", in.bytes());
  add_reduce_scatter(recipe, *transport_, in, equal_parts(size(), out.bytes()),
                     static_cast<std::byte*>(out.data), op);
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::all_gather(ConstByteView in, ByteView out, StreamView) {
  const auto ranks = static_cast<std::size_t>(size());
  THINWIRE_EXPECTS(out.size % ranks == 0 && out.size / ranks == in.size, InvalidArgument,
                   fmt::format("all_gather: out has {} bytes for {} ranks with {} bytes each",
                               out.size, ranks, in.size));
  expect_host("all_gather", "in", in, in.size);
  expect_host("all_gather", "out", out, out.size);
  if (in.data != out.data + static_cast<std::size_t>(rank()) * in.size) {
    expect_apart("all_gather", in.data, in.size, out.data, out.size);
  }
  auto recipe = collective("all_gather", out.size);
  add_all_gather(recipe, *transport_, in, out, equal_parts(size(), in.size));
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::all_to_all(ConstByteView in, ByteView out, StreamView) {
  const auto ranks = static_cast<std::size_t>(size());
  THINWIRE_EXPECTS(in.size == out.size && in.size % ranks == 0, InvalidArgument,
                   fmt::format("all_to_all: in has {} and out {} bytes; both must be the same "
                               "multiple of {} ranks",
                               in.size, out.size, ranks));
  expect_host("all_to_all", "in", in, in.size);
  expect_host("all_to_all", "out", out, out.size);
  expect_apart("all_to_all", in.data, in.size, out.data, out.size);
  const auto parts = equal_parts(size(), in.size / ranks);
  auto recipe = collective("all_to_all", in.size);
  add_all_to_all(recipe, *transport_, in, parts, out, parts);
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::all_to_all_v(
    ConstByteView in, std::span<const std::size_t> in_bytes,
    std::span<const std::size_t> in_offsets, ByteView out, std::span<const std::size_t> out_bytes,
    std::span<const std::size_t> out_offsets, StreamView) {
  expect_host("all_to_all_v", "in", in, in.size);
  expect_host("all_to_all_v", "out", out, out.size);
  expect_apart("all_to_all_v", in.data, in.size, out.data, out.size);
  const auto in_parts = given_parts("all_to_all_v", "in", size(), in_bytes, in_offsets, in.size);
  const auto out_parts =
      given_parts("all_to_all_v", "out", size(), out_bytes, out_offsets, out.size);
  const auto me = static_cast<std::size_t>(rank());
  THINWIRE_EXPECTS(in_parts[me].bytes == out_parts[me].bytes, InvalidArgument,
                   fmt::format("all_to_all_v: rank {} sends itself {} bytes but receives {}",
                               rank(), in_parts[me].bytes, out_parts[me].bytes));
  auto recipe = collective("all_to_all_v", in.size);
  add_all_to_all(recipe, *transport_, in, in_parts, out, out_parts);
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::broadcast(ByteView data, int root, StreamView) {
  THINWIRE_EXPECTS(root >= 0 && root < size(), InvalidArgument,
                   fmt::format("broadcast: root {} is not one of {} ranks", root, size()));
  expect_host("broadcast", "data", data, data.size);
  auto recipe = collective("broadcast", data.size);
  add_broadcast(recipe, *transport_, data, root);
  return start(std::move(recipe));
}

void PointToPointCommunicator::expect_messages(std::string_view operation) const {
  THINWIRE_EXPECTS(!transport_->exchanges_steps(), TransportError,
                   fmt::format("rank {}: {}: this communicator stands on a group that has "
                               "collectives alone; use MPI or NCCL for messages between two ranks",
                               rank(), operation));
}

WorkHandle PointToPointCommunicator::send(ConstByteView data, int to, StreamView) {
  THINWIRE_EXPECTS(to >= 0 && to < size() && to != rank(), InvalidArgument,
                   fmt::format("send: rank {} of {} cannot send to rank {}", rank(), size(), to));
  expect_host("send", "data", data, data.size);
  expect_messages("send");
  auto recipe = single(fmt::format("send of {} bytes to rank {}", data.size, to));
  recipe.steps.push_back(
      {{{Transfer::Way::send, to, const_cast<std::byte*>(data.data), data.size}}, {}, {}});
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::recv(ByteView data, int from, StreamView) {
  THINWIRE_EXPECTS(
      from >= 0 && from < size() && from != rank(), InvalidArgument,
      fmt::format("recv: rank {} of {} cannot receive from rank {}", rank(), size(), from));
  expect_host("recv", "data", data, data.size);
  expect_messages("recv");
  auto recipe = single(fmt::format("recv of {} bytes from rank {}", data.size, from));
  recipe.steps.push_back({{{Transfer::Way::receive, from, data.data, data.size}}, {}, {}});
  return start(std::move(recipe));
}

WorkHandle PointToPointCommunicator::barrier() {
  auto recipe = collective("barrier", 0);
  add_barrier(recipe, *transport_);
  return start(std::move(recipe));
}

SplitGroup PointToPointCommunicator::agree(int color, int key) {
  for (;;) {
    const int proposal = transport_->split_number();
    auto group = agree_on_split(control_, color, key, proposal);
    if (proposal == 0) return group;
    // Another thread may be splitting another communicator of some of these ranks. Who has no more
    // numbers says it like the others, so that all know.
    std::exception_ptr error;
    std::string_view mine = "taken";
    try {
      if (!group.members.empty() &&
          !transport_->take_split_number(group.number, group.members.size())) {
        mine = "again";
      }
    } catch (const TransportError&) {
      error = std::current_exception();
      mine = "over";
    }
    const auto answers = control_.all_gather(mine, config().timeout);
    if (error) std::rethrow_exception(error);
    const auto over = std::find(answers.begin(), answers.end(), "over");
    if (over != answers.end()) {
      throw TransportError{fmt::format(
          "rank {}: split: rank {} has no more of MPI's tags for splits; keep and reuse "
          "communicators",
          rank(), over - answers.begin())};
    }
    if (std::find(answers.begin(), answers.end(), "again") == answers.end()) return group;
  }
}

std::unique_ptr<Communicator> PointToPointCommunicator::split(int color, int key) {
  auto [members, number] = agree(color, key);
  const auto place = std::find(members.begin(), members.end(), rank()) - members.begin();
  auto endpoint = transport_->split(
      with_wait({std::max(color, -1), static_cast<int>(place), members, number, {}, {}}));
  control_.end_wait();
  if (members.empty()) return nullptr;
  return std::make_unique<PointToPointCommunicator>(std::move(endpoint), &control_,
                                                    std::move(members));
}

Split PointToPointCommunicator::with_wait(Split split) {
  const auto context = fmt::format("rank {}: split", rank());
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int> others;
  for (const int member : split.members) {
    if (member != rank()) others.push_back(member);
  }
  // An abort ends no wait here: who is done with the split may abort while others still make it.
  split.waiting = [this, begin, others] {
    control_.report_wait(begin, [&] { return WaitReport{"split", others}; });
  };
  split.late = [this, context, begin, others] {
    if (const auto notice = control_.abort_notice()) throw aborted_error(context, *notice);
    const auto error = timeout_error(context, begin, control_.blame(others));
    control_.post_abort({error.peer, error.what()});
    throw error;
  };
  return split;
}

void PointToPointCommunicator::abort(std::string_view reason, int culprit) noexcept {
  control_.post_abort({culprit < 0 ? rank() : culprit, std::string{reason}});
}

}  // namespace thinwire::comm
