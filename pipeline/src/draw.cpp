#include "thinwire/pipeline/draw.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace thinwire::pipeline {
namespace {

constexpr double left = 66;
constexpr double right = 120;
constexpr double top = 54;
constexpr double bar = 26;
constexpr double lane = 5;
constexpr double row = bar + lane + 9;
constexpr std::array<std::string_view, causes> wait_colours = {"#b9c0cc", "#e8a33d", "#4f8fd9",
                                                               "#b9c0cc", "#d9534f"};

struct Colour {
  int red, green, blue;
};

Colour from_hsl(double hue, double saturation, double lightness) {
  const double a = saturation * std::min(lightness, 1 - lightness);
  const auto channel = [&](double n) {
    const double k = std::fmod(n + hue / 30, 12);
    const double value = lightness - a * std::max(-1.0, std::min({k - 3, 9 - k, 1.0}));
    return static_cast<int>(std::lround(255 * value));
  };
  return {channel(0), channel(8), channel(4)};
}

/// Stages around the colour wheel by golden angle, so that neighbours differ; kinds by lightness.
std::string cell_colour(int stage, Kind kind) {
  const double hue = std::fmod(212 + 137.508 * stage, 360);
  double lightness = 0.62;  // F
  if (kind == Kind::backward || kind == Kind::input_gradient) lightness = 0.46;
  if (kind == Kind::weight_gradient) lightness = 0.78;
  const Colour c = from_hsl(hue, 0.52, lightness);
  return fmt::format("#{:02x}{:02x}{:02x}", c.red, c.green, c.blue);
}

/// A round step of about `wanted` marks.
double tick_step(double length, int wanted) {
  if (length <= 0) return 1;
  const double rough = length / wanted;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

struct Unit {
  double scale;
  std::string_view name;
};
Unit unit_of(double length, bool seconds) {
  if (!seconds) return {1, ""};
  if (length >= 1) return {1, " s"};
  return length >= 1e-3 ? Unit{1e3, " ms"} : Unit{1e6, " us"};
}

std::string bytes_text(double bytes) {
  constexpr std::array<std::string_view, 4> names = {"B", "KiB", "MiB", "GiB"};
  std::size_t i = 0;
  while (bytes >= 1024 && i + 1 < names.size()) {
    bytes /= 1024;
    ++i;
  }
  return fmt::format("{:.4g} {}", bytes, names[i]);
}

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

class Picture {
 public:
  Picture(const Schedule& schedule, const Timeline& timeline, const DrawOptions& options)
      : schedule_{schedule},
        timeline_{timeline},
        options_{options},
        unit_{unit_of(timeline.step_time, options.seconds)},
        scale_{timeline.step_time > 0 ? (options.width - left - right) / timeline.step_time : 0} {}

  std::string draw() {
    const double axis = top + row * schedule_.ranks();
    const double height = axis + 84;
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
        "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"Helvetica, Arial, sans-serif\" "
        "font-size=\"12\">\n",
        options_.width, height);
    patterns();
    put("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    heading();
    for (int rank = 0; rank < schedule_.ranks(); ++rank) rank_row(rank);
    for (const TransferSpan& span : timeline_.transfers) transfer(span);
    time_axis(axis);
    legend(axis + 40);
    put("</svg>\n");
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  double x(double time) const { return left + scale_ * time; }
  static double y(int rank) { return top + row * rank; }

  void patterns() {
    put("<defs>\n");
    for (int cause = 0; cause < causes; ++cause) {
      // Diagonals lean one way for filling and draining, the other for waiting in between.
      const bool edge =
          cause == static_cast<int>(Cause::warm_up) || cause == static_cast<int>(Cause::drain);
      put("<pattern id=\"wait{}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
          "patternTransform=\"rotate({})\"><rect width=\"6\" height=\"6\" fill=\"#f6f7f9\"/>"
          "<rect width=\"2\" height=\"6\" fill=\"{}\"/></pattern>\n",
          cause, edge ? 45 : -45, wait_colours[static_cast<std::size_t>(cause)]);
    }
    put("</defs>\n");
  }

  void heading() {
    const std::string title =
        options_.title.empty()
            ? fmt::format("{}: {} ranks, {} stages, {} micro-batches", schedule_.name,
                          schedule_.ranks(), schedule_.stages(), schedule_.microbatches)
            : options_.title;
    put("<text x=\"{}\" y=\"22\" font-size=\"16\" font-weight=\"bold\" "
        "fill=\"#1f2937\">{}</text>\n",
        left, escaped(title));
    put("<text x=\"{}\" y=\"41\" fill=\"#6b7280\">step {:.4g}{}, {:.1f} % idle</text>\n", left,
        timeline_.step_time * unit_.scale, unit_.name, 100 * timeline_.bubble());
  }

  void rank_row(int rank) {
    const RankTimeline& line = timeline_.ranks[static_cast<std::size_t>(rank)];
    put("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#374151\">rank {}</text>\n",
        left - 8, y(rank) + bar * 0.66, rank);
    for (const WaitSpan& span : line.idle) {
      block(span, rank, fmt::format("url(#wait{})", static_cast<int>(span.cause)), "none",
            fmt::format("wait: {}", to_string(span.cause)));
    }
    for (const ComputeSpan& span : line.compute) cell(span, rank);
    if (line.optimizer.end > line.optimizer.start) {
      block(line.optimizer, rank, "#2b3038", "#ffffff", "optimizer");
    }
    const double share = timeline_.step_time > 0 ? 1 - line.busy / timeline_.step_time : 0;
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"#374151\">{:.1f} % idle</text>\n",
        options_.width - right + 10, y(rank) + 11, 100 * share);
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"11\" fill=\"#6b7280\">peak {}</text>\n",
        options_.width - right + 10, y(rank) + 25,
        options_.seconds ? bytes_text(line.peak_bytes) : fmt::format("{:.4g}", line.peak_bytes));
  }

  void block(const Span& span, int rank, const std::string& fill, std::string_view stroke,
             const std::string& hint) {
    put("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\" stroke=\"{}\" "
        "stroke-width=\"0.8\"><title>{}, {:.4g} to {:.4g}{}</title></rect>\n",
        x(span.start), y(rank), scale_ * (span.end - span.start), bar, fill, stroke, hint,
        span.start * unit_.scale, span.end * unit_.scale, unit_.name);
  }

  void cell(const ComputeSpan& span, int rank) {
    const double width = scale_ * (span.end - span.start);
    block(span, rank, cell_colour(span.action.stage, span.action.kind), "#ffffff",
          to_string(span.action));
    const std::string label = std::to_string(span.action.microbatch);
    if (width < 7.0 * static_cast<double>(label.size())) return;
    put("<text x=\"{:.2f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{}\">{}"
        "</text>\n",
        x(span.start) + width / 2, y(rank) + bar * 0.66,
        span.action.kind == Kind::weight_gradient ? "#1f2937" : "#ffffff", label);
  }

  void transfer(const TransferSpan& span) {
    if (span.end <= span.start) return;
    put("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\" "
        "fill-opacity=\"0.8\"><title>{} to rank {}, {:.4g} to {:.4g}{}</title></rect>\n",
        x(span.start), y(span.source) + bar + 1, scale_ * (span.end - span.start), lane,
        span.action.kind == Kind::reduce_gradient ? "#111827" : "#64748b", to_string(span.action),
        span.destination, span.start * unit_.scale, span.end * unit_.scale, unit_.name);
  }

  void time_axis(double at) {
    put("<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#9ca3af\"/>\n", left,
        at, x(timeline_.step_time), at);
    const double length = timeline_.step_time * unit_.scale;
    const double step = tick_step(length, 10);
    for (int i = 0; i * step <= length * (1 + 1e-9); ++i) {
      const double position = x(i * step / unit_.scale);
      put("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#9ca3af\"/>"
          "<text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\" font-size=\"11\" "
          "fill=\"#6b7280\">{4:.6g}{5}</text>\n",
          position, at, at + 4, at + 17, i * step, unit_.name);
    }
  }

  void legend(double at) {
    double position = left;
    const auto entry = [&](const std::string& fill, std::string_view text) {
      put("<rect x=\"{0:.1f}\" y=\"{1:.1f}\" width=\"14\" height=\"12\" fill=\"{2}\" "
          "stroke=\"#d1d5db\" stroke-width=\"0.5\"/><text x=\"{3:.1f}\" y=\"{4:.1f}\" "
          "font-size=\"11\" fill=\"#374151\">{5}</text>\n",
          position, at, fill, position + 19, at + 10, text);
      position += 34 + 6.2 * static_cast<double>(text.size());
    };
    entry("#a3a8b1", "forward");
    entry("#6b7079", "backward (B, I)");
    entry("#d3d6db", "weight gradient");
    entry("#2b3038", "optimizer");
    for (int cause = 0; cause < causes; ++cause) {
      entry(fmt::format("url(#wait{})", cause),
            fmt::format("wait: {}", to_string(static_cast<Cause>(cause))));
    }
    position = left;
    at += 20;
    const int shown = std::min(schedule_.stages(), 16);
    for (int stage = 0; stage < shown; ++stage) {
      entry(cell_colour(stage, Kind::forward), fmt::format("stage {}", stage));
    }
    if (shown < schedule_.stages()) entry("#ffffff", "...");
  }

  const Schedule& schedule_;
  const Timeline& timeline_;
  const DrawOptions& options_;
  const Unit unit_;
  const double scale_;
  std::string out_;
};

}  // namespace

std::string to_svg(const Schedule& schedule, const Timeline& timeline, const DrawOptions& options) {
  return Picture{schedule, timeline, options}.draw();
}

}  // namespace thinwire::pipeline
