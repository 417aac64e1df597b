#include <algorithm>
#include <limits>

#include "partition_solvers.hpp"

namespace thinwire::pipeline {
namespace {

/// Is there a partition of a V with no rank or lane above `bound`? Level r marks the pairs (front,
/// back) of layers that the first r ranks can have taken from either end of the model.
class VProbe {
 public:
  VProbe(const PartitionTables& tables, double bound)
      : tables_{tables},
        bound_{bound},
        n_{tables.layers()},
        p_{tables.stages() / 2},
        width_{static_cast<std::size_t>(n_) + 1},
        levels_(static_cast<std::size_t>(p_), std::vector<char>(width_ * width_, 0)) {}

  /// Bounds, or empty.
  Partition run() {
    levels_[0][0] = 1;
    for (int r = 0; r + 1 < p_; ++r) {
      most_.assign(width_ * width_, 0);
      for (int front = 0; front <= n_; ++front) {
        for (int back = 0; front + back <= n_; ++back) {
          if (marked(r, front, back)) expand(r, front, back);
        }
      }
      mark(r);
    }
    for (int front = 0; front <= n_; ++front) {
      for (int back = 0; front + back <= n_ - 2; ++back) {
        if (!marked(p_ - 1, front, back)) continue;
        const int cut = bottom_cut(front, back);
        if (cut > 0) return walk_back(front, back, cut);
      }
    }
    return {};
  }

 private:
  std::size_t index(int front, int back) const {
    return static_cast<std::size_t>(front) * width_ + static_cast<std::size_t>(back);
  }
  bool marked(int r, int front, int back) const {
    return levels_[static_cast<std::size_t>(r)][index(front, back)] != 0;
  }

  int up(int r) const { return 2 * p_ - 1 - r; }  ///< the stage of rank r on the way back

  /// May rank r take layers [front, front + a) and [n - back - b, n - back)?
  bool fits(int r, int front, int a, int back, int b) const {
    const int end = n_ - back;
    return tables_.load(r, front, front + a) + tables_.load(up(r), end - b, end) <= bound_ &&
           tables_.bytes(r, front, front + a) + tables_.bytes(up(r), end - b, end) <=
               tables_.cap(tables_.rank_of(r));
  }
  bool lanes_fit(int r, int front_end, int back_begin) const {
    return tables_.transfer(r, front_end) <= bound_ &&
           tables_.transfer(up(r) - 1, back_begin) <= bound_;
  }

  /// Notes, for every new front, how many layers rank r can take at the back.
  void expand(int r, int front, int back) {
    int most = n_ - front - back;  // only falls while a grows
    for (int a = 1; front + a < n_ - back; ++a) {
      most = std::min(most, n_ - front - back - a);
      while (most >= 1 && !fits(r, front, a, back, most)) --most;
      if (most < 1) return;
      int& known = most_[index(front + a, back)];
      known = std::max(known, most);
    }
  }

  void mark(int r) {
    auto& next = levels_[static_cast<std::size_t>(r) + 1];
    for (int front = 1; front <= n_; ++front) {
      for (int back = 0; front + back < n_; ++back) {
        for (int b = 1; b <= most_[index(front, back)]; ++b) {
          if (lanes_fit(r, front, n_ - back - b)) next[index(front, back + b)] = 1;
        }
      }
    }
  }

  /// First layer of the last rank's second stage, or -1: all that is left goes to that rank, where
  /// the cut matters for memory alone.
  int bottom_cut(int front, int back) const {
    for (int a = 1; front + a < n_ - back; ++a) {
      if (fits(p_ - 1, front, a, back, n_ - back - front - a)) return front + a;
    }
    return -1;
  }

  Partition walk_back(int front, int back, int cut) const {
    const auto stages = static_cast<std::size_t>(tables_.stages());
    Partition bounds(stages + 1, 0);
    bounds[stages] = n_;
    bounds[static_cast<std::size_t>(p_)] = cut;
    for (int r = p_ - 1; r > 0; --r) {
      bounds[static_cast<std::size_t>(r)] = front;
      bounds[stages - static_cast<std::size_t>(r)] = n_ - back;
      step_back(r - 1, front, back);
    }
    return bounds;
  }

  /// Finds a marked pair of level r from which rank r reaches (front, back), and goes there.
  void step_back(int r, int& front, int& back) const {
    for (int a = 1; a <= front; ++a) {
      for (int b = 1; b <= back; ++b) {
        if (marked(r, front - a, back - b) && fits(r, front - a, a, back - b, b) &&
            lanes_fit(r, front, n_ - back)) {
          front -= a;
          back -= b;
          return;
        }
      }
    }
  }

  const PartitionTables& tables_;
  const double bound_;
  const int n_;
  const int p_;
  const std::size_t width_;
  std::vector<std::vector<char>> levels_;
  std::vector<int> most_;  ///< (new front, old back) -> layers that the rank can take at the back
};

}  // namespace

/// Bisects the bound; every success is replaced by what its partition really has, so that the end
/// is exact: no partition lies below it by more than rounding.
PartitionResult solve_v(const PartitionTables& tables) {
  PartitionResult best;
  best.bounds = VProbe{tables, std::numeric_limits<double>::max()}.run();
  if (best.bounds.empty()) return best;
  best.optimal = true;
  best.bottleneck = tables.bottleneck(best.bounds);
  double infeasible = tables.lower_bound() * (1 - 1e-12);
  while (best.bottleneck > infeasible * (1 + 1e-13)) {
    double bound = 0.5 * (infeasible + best.bottleneck);
    if (bound >= best.bottleneck) break;
    const Partition bounds = VProbe{tables, bound}.run();
    if (bounds.empty()) {
      infeasible = bound;
    } else {
      best.bounds = bounds;
      best.bottleneck = std::min(bound, tables.bottleneck(bounds));
    }
  }
  best.bottleneck = tables.bottleneck(best.bounds);
  return best;
}

}  // namespace thinwire::pipeline
