#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "thinwire/pipeline/draw.hpp"

namespace thinwire::pipeline {
namespace {

constexpr double microseconds = 1e6;

nlohmann::json event(const Span& span, int thread, std::string name, std::string category) {
  return {{"ph", "X"},
          {"pid", 0},
          {"tid", thread},
          {"ts", span.start * microseconds},
          {"dur", (span.end - span.start) * microseconds},
          {"name", std::move(name)},
          {"cat", std::move(category)}};
}

nlohmann::json thread_name(int thread, std::string name) {
  return {{"ph", "M"},
          {"pid", 0},
          {"tid", thread},
          {"name", "thread_name"},
          {"args", {{"name", std::move(name)}}}};
}

}  // namespace

std::string to_perfetto(const Schedule& schedule, const Timeline& timeline) {
  auto events = nlohmann::json::array();
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    const RankTimeline& line = timeline.ranks[static_cast<std::size_t>(rank)];
    events.push_back(thread_name(rank, fmt::format("rank {}", rank)));
    for (const ComputeSpan& span : line.compute) {
      events.push_back(
          event(span, rank, to_string(span.action), fmt::format("stage {}", span.action.stage)));
    }
    for (const WaitSpan& span : line.idle) {
      events.push_back(event(span, rank, fmt::format("wait: {}", to_string(span.cause)), "wait"));
    }
    if (line.optimizer.end > line.optimizer.start) {
      events.push_back(event(line.optimizer, rank, "optimizer", "optimizer"));
    }
  }
  std::map<std::string, int> lanes;  // lanes stand below the ranks, in order of first use
  for (const TransferSpan& span : timeline.transfers) {
    const bool reduction = span.action.kind == Kind::reduce_gradient;
    const std::string name =
        reduction ? fmt::format("reduce, rank {}", span.source)
                  : "lane " + to_string(Lane{span.source, span.destination,
                                             span.action.kind == Kind::send_forward});
    const auto [entry, fresh] =
        lanes.emplace(name, schedule.ranks() + static_cast<int>(lanes.size()));
    if (fresh) events.push_back(thread_name(entry->second, name));
    events.push_back(event(span, entry->second, to_string(span.action), "transfer"));
  }
  return nlohmann::json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump() + "\n";
}

}  // namespace thinwire::pipeline
