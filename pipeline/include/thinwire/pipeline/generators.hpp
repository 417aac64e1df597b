#pragma once

#include <span>
#include <string>
#include <string_view>

#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// The published schedules. All return compute-only schedules that pass require_valid, and all
/// throw InvalidArgument that names the rule and the value for an impossible (p, m, v).
/// p: ranks >= 1; m: micro-batches >= 1; v: stages a rank.

/// All forwards, then all backwards. Huang et al., GPipe (arXiv 1811.06965).
Schedule gpipe(int p, int m);

/// min(m, p-1-r) forwards, then pairs, then the rest of the backwards. Narayanan et al., PipeDream
/// flush (arXiv 2006.09503).
Schedule one_f_one_b(int p, int m);

/// 1F1B over v >= 2 chunks a rank, any m: max(1, m/p) groups of micro-batches, the larger first.
/// Narayanan et al., Megatron-LM (arXiv 2104.04473).
Schedule interleaved(int p, int m, int v);

/// 1F1B with the backward split; weight gradients start r backwards later on rank r. Qi et al.,
/// Zero Bubble, ZB-H1 (arXiv 2401.10241).
Schedule zb1p(int p, int m);

/// Zero bubble on a V (stages r and 2p-1-r), 1F1B's memory. Qi et al. (arXiv 2401.10241, 6).
Schedule zbv(int p, int m);

/// DualPipe cut in half: a V with overlapped forward and backward cells; m >= 2p. DeepSeek
/// (github.com/deepseek-ai/DualPipe).
Schedule dualpipev(int p, int m);

/// What `list` prints about a generator.
struct GeneratorInfo {
  std::string_view name;
  std::string_view placement;  ///< "loop" or "v"
  std::string_view valid;      ///< the rule on (p, m, v)
  std::string_view summary;
  int min_chunks;
  int max_chunks;  ///< 0: no limit
};
std::span<const GeneratorInfo> generators();
/// Throws InvalidArgument that lists the known names.
const GeneratorInfo& generator_info(std::string_view name);

/// By name. `v` = 0 means the fewest chunks the schedule takes (1, or 2 for interleaved and the
/// V schedules).
Schedule generate(std::string_view name, int p, int m, int v = 0);

/// True if generate(name, p, m, v) would not throw.
bool can_generate(std::string_view name, int p, int m, int v);

}  // namespace thinwire::pipeline
