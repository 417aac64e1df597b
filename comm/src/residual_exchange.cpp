#include "residual_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <string>

namespace thinwire::comm {
namespace {

using compress::Residual;

/// Elements [offset, offset + length) of a parameter belong to `owner`.
struct Holding {
  std::int64_t offset;
  std::int64_t length;
  std::size_t owner;
};

using Holdings = std::map<std::string, std::vector<Holding>>;  // by parameter

Holdings holdings(std::span<const compress::Plan* const> plans) {
  Holdings result;
  for (const compress::Plan* plan : plans) {
    if (plan->plain()) continue;
    for (int shard = 0; shard < plan->ranks(); ++shard) {
      for (int chunk = 0; chunk < plan->chunks(); ++chunk) {
        for (const compress::Run& run : plan->slot(shard, chunk).runs) {
          for (const compress::Piece& piece : run.pieces) {
            if (piece.server < 0) continue;
            const compress::Span& span = plan->spans()[piece.span];
            result[span.parameter].push_back(
                {span.parameter_offset + piece.source - span.source_offset, piece.elements,
                 static_cast<std::size_t>(shard)});
          }
        }
      }
    }
  }
  return result;
}

/// A message is a list of residuals, each: name length u64, offset i64, count u64, name, floats.
struct RecordHead {
  std::uint64_t name_bytes;
  std::int64_t offset;
  std::uint64_t count;
};

void append(std::string& message, const std::string& name, std::int64_t offset,
            std::span<const float> values) {
  const RecordHead head{name.size(), offset, values.size()};
  message.append(reinterpret_cast<const char*>(&head), sizeof head);
  message += name;
  message.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

void parse(std::string_view message, std::vector<Residual>& residuals) {
  while (!message.empty()) {
    RecordHead head{};
    const bool has_head = message.size() >= sizeof head;
    if (has_head) std::memcpy(&head, message.data(), sizeof head);
    const std::size_t rest = has_head ? message.size() - sizeof head : 0;
    THINWIRE_EXPECTS(
        has_head && head.name_bytes <= rest &&
            head.count <= (rest - head.name_bytes) / sizeof(float),
        FormatError,
        fmt::format("a message of server residuals ends after {} of its bytes", message.size()));
    message.remove_prefix(sizeof head);
    Residual residual{std::string{message.substr(0, head.name_bytes)}, head.offset,
                      std::vector<float>(head.count)};
    message.remove_prefix(head.name_bytes);
    std::memcpy(residual.values.data(), message.data(), head.count * sizeof(float));
    message.remove_prefix(head.count * sizeof(float));
    residuals.push_back(std::move(residual));
  }
}

/// No message for `rank` can be longer: every element that it owns in a record of its own.
std::size_t longest_message(const Holdings& owners, std::size_t rank) {
  std::size_t bytes = 0;
  for (const auto& [parameter, places] : owners) {
    for (const Holding& holding : places) {
      if (holding.owner != rank) continue;
      bytes += static_cast<std::size_t>(holding.length) *
               (sizeof(RecordHead) + parameter.size() + sizeof(float));
    }
  }
  return bytes;
}

std::string exchange_messages(Communicator& communicator, const std::vector<std::string>& messages,
                              std::size_t longest, Timeout timeout) {
  const std::size_t ranks = messages.size();
  std::vector<std::size_t> out_sizes;
  std::string out;
  for (const std::string& message : messages) {
    out_sizes.push_back(message.size());
    out += message;
  }
  std::vector<std::size_t> in_sizes(ranks);
  communicator
      .all_to_all(
          {reinterpret_cast<const std::byte*>(out_sizes.data()), ranks * sizeof(std::size_t)},
          {reinterpret_cast<std::byte*>(in_sizes.data()), ranks * sizeof(std::size_t)})
      ->wait(timeout);
  for (std::size_t from = 0; from < ranks; ++from) {
    if (in_sizes[from] <= longest) continue;
    throw FormatError{fmt::format("rank {}: rank {} announces {} bytes of server residuals, but at "
                                  "most {} have a place here",
                                  communicator.rank(), from, in_sizes[from], longest),
                      static_cast<int>(from)};
  }
  std::string in(std::accumulate(in_sizes.begin(), in_sizes.end(), std::size_t{0}), '\0');
  const auto out_offsets = offsets_of(out_sizes);
  const auto in_offsets = offsets_of(in_sizes);
  communicator
      .all_to_all_v({reinterpret_cast<const std::byte*>(out.data()), out.size()}, out_sizes,
                    out_offsets, {reinterpret_cast<std::byte*>(in.data()), in.size()}, in_sizes,
                    in_offsets)
      ->wait(timeout);
  return in;
}

std::vector<Residual> move_to(const Holdings& owners, int ranks, std::span<const Residual> mine,
                              const MessageExchange& exchange) {
  std::vector<std::string> messages(static_cast<std::size_t>(ranks));
  for (const Residual& residual : mine) {
    const auto found = owners.find(residual.parameter);
    if (found == owners.end()) continue;
    const auto end = residual.offset + static_cast<std::int64_t>(residual.values.size());
    for (const Holding& holding : found->second) {
      const std::int64_t from = std::max(residual.offset, holding.offset);
      const std::int64_t to = std::min(end, holding.offset + holding.length);
      if (from >= to) continue;
      append(messages[holding.owner], residual.parameter, from,
             std::span{residual.values}.subspan(static_cast<std::size_t>(from - residual.offset),
                                                static_cast<std::size_t>(to - from)));
    }
  }
  std::vector<Residual> received;
  parse(exchange(messages), received);
  return received;
}

}  // namespace

std::vector<std::size_t> offsets_of(const std::vector<std::size_t>& sizes) {
  std::vector<std::size_t> offsets(sizes.size());
  std::exclusive_scan(sizes.begin(), sizes.end(), offsets.begin(), std::size_t{0});
  return offsets;
}

std::vector<Residual> move_to_owners(int ranks, std::span<const Residual> mine,
                                     std::span<const compress::Plan* const> plans,
                                     const MessageExchange& exchange) {
  return move_to(holdings(plans), ranks, mine, exchange);
}

std::vector<Residual> move_to_owners(Communicator& communicator, std::span<const Residual> mine,
                                     std::span<const compress::Plan* const> plans,
                                     Timeout timeout) {
  const Holdings owners = holdings(plans);
  const auto longest = longest_message(owners, static_cast<std::size_t>(communicator.rank()));
  return move_to(owners, communicator.size(), mine, [&](const auto& messages) {
    return exchange_messages(communicator, messages, longest, timeout);
  });
}

}  // namespace thinwire::comm
