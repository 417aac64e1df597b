#pragma once

#include <string>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/schedule.hpp"
#include "thinwire/pipeline/simulator.hpp"

namespace thinwire::pipeline {

struct DrawOptions {
  std::string title;    ///< empty: the schedule's name and sizes
  bool seconds = true;  ///< axis in s, ms or us; else in units of cost
  double width = 1120;  ///< pixels
};

/// An SVG of one step: a row per rank, compute coloured by stage (lighter and darker by kind) with
/// the micro-batch in the cell, waits hatched by cause, transfers as thin bars below their source,
/// idle share and peak memory beside. Stands alone: no script, no font, no style sheet.
std::string to_svg(const Schedule& schedule, const Timeline& timeline, const DrawOptions& options);

/// The same step for ui.perfetto.dev and chrome://tracing: a thread per rank and per lane.
std::string to_perfetto(const Schedule& schedule, const Timeline& timeline);

}  // namespace thinwire::pipeline
