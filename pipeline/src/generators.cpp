#include "thinwire/pipeline/generators.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

constexpr std::array<GeneratorInfo, 6> table = {{
    {"gpipe", "loop", "p, m >= 1, v = 1", "all forwards, then all backwards", 1, 1},
    {"1f1b", "loop", "p, m >= 1, v = 1", "one forward, one backward; memory of p-r", 1, 1},
    {"interleaved", "loop", "p, m >= 1, v >= 2", "1f1b over v chunks a rank; 1/v of the bubble", 2,
     0},
    {"zb1p", "loop", "p, m >= 1, v = 1", "1f1b with the weight gradient in the bubble", 1, 1},
    {"zbv", "v", "p, m >= 1, v = 2", "zero bubble on a V, 1f1b's memory", 2, 2},
    {"dualpipev", "v", "p >= 1, m >= 2p, v = 2", "V with overlapped forward and backward", 2, 2},
}};

constexpr std::int64_t max_actions = std::int64_t{1} << 24;  // forwards; far above any real step

/// The rule that (p, m, v) breaks, or empty.
std::string broken_rule(const GeneratorInfo& info, int p, int m, int v) {
  if (p < 1) return fmt::format("p = {} ranks, but p >= 1", p);
  if (m < 1) return fmt::format("m = {} micro-batches, but m >= 1", m);
  if (v < info.min_chunks || (info.max_chunks != 0 && v > info.max_chunks)) {
    return fmt::format("v = {} stages a rank, but {}", v, info.valid);
  }
  if (std::int64_t{p} * v > max_actions / m) {
    return fmt::format("p = {}, m = {}, v = {} make more than {} cells", p, m, v, max_actions);
  }
  if (info.name == "dualpipev" && m < 2 * p) {
    return fmt::format("m = {} micro-batches on p = {} ranks, but m >= 2p", m, p);
  }
  return {};
}

void require_possible(std::string_view name, int p, int m, int v) {
  const std::string rule = broken_rule(generator_info(name), p, m, v);
  THINWIRE_EXPECTS(rule.empty(), InvalidArgument, fmt::format("{}: {}", name, rule));
}

Schedule empty_schedule(std::string_view name, int m, int p, std::vector<int> placement) {
  return {std::string{name}, m, std::move(placement),
          std::vector<std::vector<Action>>(static_cast<std::size_t>(p))};
}

/// Appends to one rank's list and numbers the micro-batches of each (stage, kind) by itself.
class ListWriter {
 public:
  ListWriter(std::vector<Action>& list, int stages)
      : list_{list}, next_(static_cast<std::size_t>(stages)) {}

  void forward(int stage, bool joined = false) {
    list_.push_back({Kind::forward, joined, stage, count(stage).forward++});
  }
  void backward(int stage) {
    list_.push_back({Kind::backward, false, stage, count(stage).input++});
    ++count(stage).weight;
  }
  void input_gradient(int stage) {
    list_.push_back({Kind::input_gradient, false, stage, count(stage).input++});
  }
  void weight_gradient(int stage) {
    list_.push_back({Kind::weight_gradient, false, stage, count(stage).weight++});
  }
  int forwards(int stage) { return count(stage).forward; }
  int inputs(int stage) { return count(stage).input; }
  int weights(int stage) { return count(stage).weight; }

 private:
  struct Count {
    int forward = 0;
    int input = 0;
    int weight = 0;
  };
  Count& count(int stage) { return next_[static_cast<std::size_t>(stage)]; }

  std::vector<Action>& list_;
  std::vector<Count> next_;
};

/// Order in which a rank's chunks take micro-batches: group by group, chunk by chunk.
struct ChunkOrder {
  std::vector<int> chunks;  ///< chunk of the k-th forward; backwards count chunks from the end
  int largest_group;
};

ChunkOrder chunk_order(int p, int m, int v) {
  const int groups = std::max(1, m / p);
  ChunkOrder order{{}, (m + groups - 1) / groups};
  for (int group = 0; group < groups; ++group) {
    const int size = m / groups + (group < m % groups ? 1 : 0);
    for (int chunk = 0; chunk < v; ++chunk) {
      order.chunks.insert(order.chunks.end(), static_cast<std::size_t>(size), chunk);
    }
  }
  return order;
}

}  // namespace

std::span<const GeneratorInfo> generators() { return table; }

const GeneratorInfo& generator_info(std::string_view name) {
  std::string known;
  for (const GeneratorInfo& info : table) {
    if (info.name == name) return info;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", info.name);
  }
  throw InvalidArgument{fmt::format("unknown schedule '{}'; known are {}", name, known)};
}

bool can_generate(std::string_view name, int p, int m, int v) {
  return broken_rule(generator_info(name), p, m, v).empty();
}

Schedule generate(std::string_view name, int p, int m, int v) {
  const int chunks = v == 0 ? generator_info(name).min_chunks : v;
  require_possible(name, p, m, chunks);
  if (name == "gpipe") return gpipe(p, m);
  if (name == "1f1b") return one_f_one_b(p, m);
  if (name == "interleaved") return interleaved(p, m, chunks);
  if (name == "zb1p") return zb1p(p, m);
  if (name == "zbv") return zbv(p, m);
  return dualpipev(p, m);
}

Schedule gpipe(int p, int m) {
  require_possible("gpipe", p, m, 1);
  Schedule schedule = empty_schedule("gpipe", m, p, loop_placement(p, 1));
  for (int r = 0; r < p; ++r) {
    ListWriter out{schedule.actions[static_cast<std::size_t>(r)], p};
    for (int i = 0; i < m; ++i) out.forward(r);
    for (int i = 0; i < m; ++i) out.backward(r);
  }
  return schedule;
}

Schedule one_f_one_b(int p, int m) {
  require_possible("1f1b", p, m, 1);
  Schedule schedule = empty_schedule("1f1b", m, p, loop_placement(p, 1));
  for (int r = 0; r < p; ++r) {
    ListWriter out{schedule.actions[static_cast<std::size_t>(r)], p};
    const int warmup = std::min(m, p - 1 - r);
    for (int i = 0; i < warmup; ++i) out.forward(r);
    for (int i = warmup; i < m; ++i) {
      out.forward(r);
      out.backward(r);
    }
    for (int i = 0; i < warmup; ++i) out.backward(r);
  }
  return schedule;
}

Schedule interleaved(int p, int m, int v) {
  require_possible("interleaved", p, m, v);
  Schedule schedule = empty_schedule("interleaved", m, p, loop_placement(p, v));
  const ChunkOrder order = chunk_order(p, m, v);
  const int total = m * v;
  for (int r = 0; r < p; ++r) {
    ListWriter out{schedule.actions[static_cast<std::size_t>(r)], p * v};
    const auto forward = [&](int k) {
      out.forward(order.chunks[static_cast<std::size_t>(k)] * p + r);
    };
    const auto backward = [&](int k) {
      out.backward((v - 1 - order.chunks[static_cast<std::size_t>(k)]) * p + r);
    };
    const int warmup = std::min(total, (v - 1) * order.largest_group + 2 * (p - 1 - r));
    for (int k = 0; k < warmup; ++k) forward(k);
    for (int k = warmup; k < total; ++k) {
      forward(k);
      backward(k - warmup);
    }
    for (int k = total - warmup; k < total; ++k) backward(k);
  }
  return schedule;
}

Schedule zb1p(int p, int m) {
  require_possible("zb1p", p, m, 1);
  Schedule schedule = empty_schedule("zb1p", m, p, loop_placement(p, 1));
  for (int r = 0; r < p; ++r) {
    ListWriter out{schedule.actions[static_cast<std::size_t>(r)], p};
    const int warmup = std::min(m, p - 1 - r);
    for (int i = 0; i < warmup; ++i) out.forward(r);
    for (int i = 0; i < m; ++i) {
      if (i + warmup < m) out.forward(r);
      out.input_gradient(r);
      if (i >= r) out.weight_gradient(r);
    }
    while (out.weights(r) < m) out.weight_gradient(r);
  }
  return schedule;
}

Schedule zbv(int p, int m) {
  require_possible("zbv", p, m, 2);
  Schedule schedule = empty_schedule("zbv", m, p, v_placement(p));
  const int padded = std::max(2 * p - 1, m);  // written for enough micro-batches, then cut to m
  for (int r = 0; r < p; ++r) {
    auto& list = schedule.actions[static_cast<std::size_t>(r)];
    ListWriter out{list, 2 * p};
    const int down = r;
    const int up = 2 * p - 1 - r;
    const auto input_and_weight = [&](int stage) {
      out.input_gradient(stage);
      out.weight_gradient(stage);
    };
    for (int i = 0; i < 2 * (p - r) - 1; ++i) out.forward(down);
    for (int i = 0; i < r; ++i) {
      out.forward(up);
      out.forward(down);
    }
    for (int i = 0; i < p - r; ++i) {
      out.forward(up);
      input_and_weight(up);
    }
    while (out.forwards(up) < out.forwards(down) || out.forwards(down) < padded) {
      if (out.forwards(down) < padded) out.forward(down);
      input_and_weight(down);
      out.forward(up);
      input_and_weight(up);
    }
    for (int i = 0; i < r; ++i) {
      out.input_gradient(down);
      out.input_gradient(up);
    }
    for (int i = 0; i < p - r; ++i) input_and_weight(down);
    while (out.weights(up) < out.inputs(up)) out.weight_gradient(up);
    while (out.weights(down) < out.inputs(down)) out.weight_gradient(down);
    std::erase_if(list, [&](const Action& action) { return action.microbatch >= m; });
  }
  return schedule;
}

Schedule dualpipev(int p, int m) {
  require_possible("dualpipev", p, m, 2);
  Schedule schedule = empty_schedule("dualpipev", m, p, v_placement(p));
  for (int r = 0; r < p; ++r) {
    ListWriter out{schedule.actions[static_cast<std::size_t>(r)], 2 * p};
    const int down = r;
    const int up = 2 * p - 1 - r;
    std::vector<int> owed;  // stages whose weight gradients wait, oldest first
    std::size_t paid = 0;
    bool split = false;
    const auto backward = [&](int stage) {
      if (split) {
        out.input_gradient(stage);
        owed.push_back(stage);
      } else {
        out.backward(stage);
      }
    };
    const auto weight_gradient = [&] {
      if (paid < owed.size()) out.weight_gradient(owed[paid++]);
    };
    const auto overlap = [&](int forward_stage, int backward_stage) {
      out.forward(forward_stage, true);
      out.backward(backward_stage);
    };

    for (int i = 0; i < 2 * (p - r - 1); ++i) out.forward(down);
    for (int i = 0; i < r + 1; ++i) {
      out.forward(down);
      out.forward(up);
    }
    for (int i = 0; i < p - r - 1; ++i) {
      out.input_gradient(up);
      out.weight_gradient(up);
      out.forward(up);
    }
    for (int i = 0; i < m - 2 * p + r + 1; ++i) {
      if (i == 0 && r == p - 1) {  // not overlapped: the last rank has nothing to hide yet
        out.forward(down);
        out.backward(up);
      } else {
        overlap(down, up);
      }
      overlap(up, down);
    }
    for (int i = 0; i < p - r - 1; ++i) {
      out.backward(up);
      overlap(up, down);
    }
    const int half = (r + 1) / 2;
    for (int i = 0; i < r + 1; ++i) {
      if (i == half && r % 2 == 1) split = true;
      backward(up);
      if (i == half && r % 2 == 0) split = true;
      backward(down);
    }
    for (int i = 0; i < p - r - 1; ++i) {
      weight_gradient();
      backward(down);
    }
    while (paid < owed.size()) weight_gradient();
  }
  return schedule;
}

}  // namespace thinwire::pipeline
