#include "shard_plans.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// The spans of elements [from, to), with sources counted from `from`.
std::vector<compress::Span> spans_between(const std::vector<compress::Span>& spans,
                                          std::int64_t from, std::int64_t to) {
  std::vector<compress::Span> inside;
  for (const compress::Span& span : spans) {
    const std::int64_t first = std::max(from, span.source_offset);
    const std::int64_t last = std::min(to, span.source_offset + span.length);
    if (first >= last) continue;
    compress::Span part = span;
    part.parameter_offset += first - span.source_offset;
    part.source_offset = first - from;
    part.length = last - first;
    inside.push_back(std::move(part));
  }
  return inside;
}

}  // namespace

void require_reduce_scatter(const compress::Plan& plan) {
  THINWIRE_EXPECTS(plan.settings().operation == compress::Operation::reduce_scatter &&
                       !plan.settings().boundaries.empty() && !plan.plain(),
                   InvalidArgument,
                   "a compressed reduce-scatter needs a plan with Operation::reduce_scatter, "
                   "boundaries and a codec; for 'none' use Communicator::reduce_scatter");
}

std::vector<compress::Plan> make_gather_plans(const compress::CodecSpec& codec,
                                              const std::vector<compress::Span>& spans, DType dtype,
                                              const std::vector<std::int64_t>& boundaries,
                                              int ranks) {
  THINWIRE_EXPECTS(
      codec.feedback == compress::Feedback::none && codec.codec != compress::Codec::none,
      InvalidArgument,
      "a compressed all-gather keeps no residual: give a codec with '+noef'; for 'none' "
      "use Communicator::all_gather");
  const auto count = static_cast<std::size_t>(ranks);
  THINWIRE_EXPECTS(
      boundaries.size() == count + 1 && boundaries.front() == 0 &&
          std::is_sorted(boundaries.begin(), boundaries.end()),
      InvalidArgument,
      fmt::format("a compressed all-gather of {} ranks needs {} rising boundaries from "
                  "0; {} were given",
                  ranks, ranks + 1, boundaries.size()));
  std::vector<compress::Plan> plans;
  for (std::size_t rank = 0; rank < count; ++rank) {
    plans.emplace_back(
        std::vector{codec}, spans_between(spans, boundaries[rank], boundaries[rank + 1]),
        compress::PlanSettings{
            .ranks = 1, .operation = compress::Operation::all_gather, .dtype = dtype});
  }
  return plans;
}

}  // namespace thinwire::comm
