#include "thinwire/compress/plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

constexpr std::int64_t max_offset = std::numeric_limits<std::int64_t>::max();

std::string name_of(const Span& span) {
  return fmt::format("span '{}' at {}", span.parameter, span.parameter_offset);
}

void check_section(std::size_t index, const CodecSpec& spec) {
  const auto valid_density = [](double density) { return density > 0.0 && density <= 1.0; };
  THINWIRE_EXPECTS(spec.codec <= Codec::topk, InvalidArgument,
                   fmt::format("plan: section {} has no codec of its own", index));
  THINWIRE_EXPECTS(spec.codec != Codec::none || spec.feedback == Feedback::none, InvalidArgument,
                   fmt::format("plan: section {} is none, which has no residual", index));
  THINWIRE_EXPECTS(
      spec.codec != Codec::topk || (valid_density(spec.density) && valid_density(spec.density_out)),
      InvalidArgument,
      fmt::format("plan: section {} has density {} and density_out {}; both must be in (0, 1]",
                  index, spec.density, spec.density_out));
}

void check_span(const Span& span, std::size_t sections) {
  THINWIRE_EXPECTS(
      span.length >= 0 && span.source_offset >= 0 && span.parameter_offset >= 0 &&
          span.source_offset <= max_offset - span.length &&
          span.parameter_offset <= max_offset - span.length,
      InvalidArgument,
      fmt::format("plan: {} has length {} and source offset {}; both must be 0 or more",
                  name_of(span), span.length, span.source_offset));
  THINWIRE_EXPECTS(span.section < sections, InvalidArgument,
                   fmt::format("plan: {} is in section {}, but there are {} sections",
                               name_of(span), span.section, sections));
}

/// Indices of the spans that hold something, sorted by `less`.
template <typename Less>
std::vector<std::size_t> sorted_spans(const std::vector<Span>& spans, Less less) {
  std::vector<std::size_t> order(spans.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::erase_if(order, [&](std::size_t i) { return spans[i].length == 0; });
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return less(spans[a], spans[b]); });
  return order;
}

void check_overlaps(const std::vector<Span>& spans) {
  const auto by_source = sorted_spans(
      spans, [](const Span& a, const Span& b) { return a.source_offset < b.source_offset; });
  for (std::size_t i = 1; i < by_source.size(); ++i) {
    const Span& before = spans[by_source[i - 1]];
    const Span& after = spans[by_source[i]];
    THINWIRE_EXPECTS(
        before.source_offset + before.length <= after.source_offset, InvalidArgument,
        fmt::format("plan: {} and {} overlap in the source", name_of(before), name_of(after)));
  }
  const auto by_parameter = sorted_spans(spans, [](const Span& a, const Span& b) {
    return std::tie(a.parameter, a.parameter_offset) < std::tie(b.parameter, b.parameter_offset);
  });
  for (std::size_t i = 1; i < by_parameter.size(); ++i) {
    const Span& before = spans[by_parameter[i - 1]];
    const Span& after = spans[by_parameter[i]];
    THINWIRE_EXPECTS(
        before.parameter != after.parameter ||
            before.parameter_offset + before.length <= after.parameter_offset,
        InvalidArgument,
        fmt::format("plan: {} and {} hold the same elements", name_of(before), name_of(after)));
  }
}

void check_boundaries(const PlanSettings& settings, const std::vector<Span>& spans) {
  const auto& boundaries = settings.boundaries;
  if (boundaries.empty()) return;
  THINWIRE_EXPECTS(boundaries.size() == static_cast<std::size_t>(settings.ranks) + 1,
                   InvalidArgument,
                   fmt::format("plan: {} boundaries for {} ranks; {} are needed", boundaries.size(),
                               settings.ranks, settings.ranks + 1));
  THINWIRE_EXPECTS(std::is_sorted(boundaries.begin(), boundaries.end()), InvalidArgument,
                   fmt::format("plan: boundaries [{}] do not rise", fmt::join(boundaries, ", ")));
  for (const Span& span : spans) {
    THINWIRE_EXPECTS(span.length == 0 || (boundaries.front() <= span.source_offset &&
                                          span.source_offset + span.length <= boundaries.back()),
                     InvalidArgument,
                     fmt::format("plan: {} is not inside the boundaries [{}, {})", name_of(span),
                                 boundaries.front(), boundaries.back()));
  }
}

std::string_view to_string(Operation operation) {
  switch (operation) {
    case Operation::allreduce:
      return "allreduce";
    case Operation::reduce_scatter:
      return "reduce_scatter";
    case Operation::all_gather:
      return "all_gather";
  }
  return "unknown";
}

std::string_view to_string(NonFinite policy) {
  switch (policy) {
    case NonFinite::propagate:
      return "propagate";
    case NonFinite::raise:
      return "raise";
    case NonFinite::zero:
      return "zero";
  }
  return "unknown";
}

std::uint64_t hash(std::uint64_t seed, std::uint64_t value) {
  return mix64(seed + 0x9E3779B97F4A7C15ull + mix64(value));
}

std::uint64_t hash(std::uint64_t seed, std::string_view text) {
  for (const char c : text)
    seed = hash(seed, static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
  return hash(seed, static_cast<std::uint64_t>(text.size()));
}

std::uint64_t hash(std::uint64_t seed, const Span& span) {
  seed = hash(seed, span.parameter);
  for (const std::int64_t value : {span.parameter_offset, span.source_offset, span.length,
                                   span.rows, span.cols, std::int64_t{span.section}}) {
    seed = hash(seed, static_cast<std::uint64_t>(value));
  }
  return seed;
}

std::string describe_spans(const std::vector<Span>& spans) {
  if (spans.empty()) return "0";
  std::uint64_t digest_of_spans = 0;
  for (const Span& span : spans) digest_of_spans = hash(digest_of_spans, span);
  return fmt::format("{} from '{}' to '{}', digest {:016x}", spans.size(), spans.front().parameter,
                     spans.back().parameter, digest_of_spans);
}

std::string describe_sections(const std::vector<CodecSpec>& sections) {
  std::string text;
  for (const CodecSpec& spec : sections) {
    if (!text.empty()) text += ", ";
    text += to_string(spec);
  }
  return text;
}

bool only_none(const std::vector<CodecSpec>& sections, const std::vector<Span>& spans) {
  const auto is_none = [](const CodecSpec& spec) { return spec.codec == Codec::none; };
  const auto holds_something = [](const Span& span) { return span.length > 0; };
  if (std::none_of(spans.begin(), spans.end(), holds_something)) {
    return std::all_of(sections.begin(), sections.end(), is_none);
  }
  return std::all_of(spans.begin(), spans.end(), [&](const Span& span) {
    return span.length == 0 || is_none(sections[span.section]);
  });
}

}  // namespace

Plan::Plan(std::vector<CodecSpec> sections, std::vector<Span> spans, PlanSettings settings)
    : sections_{std::move(sections)}, spans_{std::move(spans)}, settings_{std::move(settings)} {
  check();
  for (const Span& span : spans_) {
    elements_ += span.length;
    source_extent_ = std::max(source_extent_, span.source_offset + span.length);
  }
  plain_ = only_none(sections_, spans_);
  lay_out_residuals();
  lay_out_slots();
  for (const auto& [name, value] : describe()) id_ = hash(hash(id_, name), value);
}

void Plan::check() const {
  THINWIRE_EXPECTS(settings_.ranks >= 1, InvalidArgument,
                   fmt::format("plan: {} ranks; at least 1 is needed", settings_.ranks));
  THINWIRE_EXPECTS(settings_.chunks >= 1, InvalidArgument,
                   fmt::format("plan: {} chunks; at least 1 is needed", settings_.chunks));
  THINWIRE_EXPECTS(
      settings_.non_finite != NonFinite::raise || settings_.commit == Commit::double_buffered,
      InvalidArgument, "plan: the policy raise drops a step, so it needs Commit::double_buffered");
  THINWIRE_EXPECTS(!sections_.empty(), InvalidArgument, "plan: there is no section");
  for (std::size_t i = 0; i < sections_.size(); ++i) check_section(i, sections_[i]);
  for (const Span& span : spans_) check_span(span, sections_.size());
  check_overlaps(spans_);
  check_boundaries(settings_, spans_);
}

Codec Plan::header_codec() const {
  const auto differs = [&](const CodecSpec& spec) { return spec.codec != sections_.front().codec; };
  return std::any_of(sections_.begin(), sections_.end(), differs) ? Codec::mixed
                                                                  : sections_.front().codec;
}

std::uint32_t Plan::header_block() const {
  const Codec codec = header_codec();
  return codec == Codec::mixed ? 0 : static_cast<std::uint32_t>(block_elements(codec));
}

const Slot& Plan::slot(int shard, int chunk) const {
  THINWIRE_ASSERT(shard >= 0 && shard < ranks() && chunk >= 0 && chunk < chunks_);
  return slots_[static_cast<std::size_t>(chunk) * static_cast<std::size_t>(ranks()) +
                static_cast<std::size_t>(shard)];
}

std::size_t Plan::slot_bytes(int chunk, Phase phase) const {
  THINWIRE_ASSERT(chunk >= 0 && chunk < chunks_);
  return slot_bytes_[static_cast<std::size_t>(phase)][static_cast<std::size_t>(chunk)];
}

std::size_t Plan::chunk_offset(int chunk, Phase phase) const {
  THINWIRE_ASSERT(chunk >= 0 && chunk <= chunks_);
  const auto& bytes = slot_bytes_[static_cast<std::size_t>(phase)];
  return static_cast<std::size_t>(ranks()) *
         std::accumulate(bytes.begin(), bytes.begin() + chunk, std::size_t{0});
}

std::size_t Plan::payload_bytes(Phase phase) const { return chunk_offset(chunks_, phase); }

std::size_t Plan::wire_bytes() const {
  std::size_t to_each = 0;
  for (int chunk = 0; chunk < chunks_; ++chunk) {
    if (settings_.operation != Operation::all_gather) to_each += slot_bytes(chunk, Phase::reduce);
    if (settings_.operation != Operation::reduce_scatter) {
      to_each += slot_bytes(chunk, Phase::gather);
    }
  }
  return to_each * static_cast<std::size_t>(ranks() - 1);
}

std::int64_t Plan::server_elements(int shard) const {
  THINWIRE_ASSERT(shard >= 0 && shard < ranks());
  return server_elements_[static_cast<std::size_t>(shard)];
}

std::size_t Plan::state_bytes(int shard) const {
  const std::int64_t versions = settings_.commit == Commit::double_buffered ? 2 : 1;
  return sizeof(float) *
         static_cast<std::size_t>(versions * residual_elements_ + 2 * server_elements(shard));
}

std::vector<std::pair<std::string, std::string>> Plan::describe() const {
  return {
      {"wire version", fmt::to_string(wire_version)},
      {"sections", describe_sections(sections_)},
      {"dtype", std::string{thinwire::to_string(settings_.dtype)}},
      {"ranks", fmt::to_string(settings_.ranks)},
      {"operation", std::string{to_string(settings_.operation)}},
      {"elements", fmt::to_string(elements_)},
      {"chunks", fmt::to_string(chunks_)},
      {"commit", settings_.commit == Commit::in_place ? "in_place" : "double_buffered"},
      {"non-finite", std::string{to_string(settings_.non_finite)}},
      {"boundaries", fmt::format("[{}]", fmt::join(settings_.boundaries, ", "))},
      {"spans", describe_spans(spans_)},
  };
}

}  // namespace thinwire::compress
