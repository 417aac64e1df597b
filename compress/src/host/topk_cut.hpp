#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "host/parallel.hpp"

namespace thinwire::compress {

/// Magnitudes (as bits) over `key` are taken, and `ties` of those that equal it.
struct TopkCut {
  std::uint32_t key = 0;
  std::int64_t ties = 0;
};

/// Finds the cut by radix selection: 11, 10 and 10 bits, from the top.
class TopkHistograms {
 public:
  explicit TopkHistograms(int threads)
      : parts_{static_cast<std::size_t>(threads)}, counts_{new Histogram[parts_]} {}

  /// The cut that takes `wanted` of the keys, of which there must be as many; 0 is no key.
  /// visit(part, parts, body) calls body(key) for the keys of one of `parts` parts.
  template <typename Visit>
  TopkCut cut(WorkerPool& pool, std::int64_t wanted, const Visit& visit) {
    TopkCut result{0, wanted};
    int known = 0;  // bits of the key
    for (const int digit : {11, 10, 10}) {
      const int below = 31 - known - digit;
      parallel_items(pool, parts_, [&](std::size_t part) {
        Histogram& counts = counts_[part];
        counts = {};
        visit(part, parts_, [&](std::uint32_t key) {
          if ((key >> (below + digit)) == result.key) {
            ++counts.of[(key >> below) & ((1u << digit) - 1u)];
          }
        });
      });
      std::uint32_t bin = (1u << digit) - 1u;
      for (std::int64_t count = total(bin); count < result.ties; count = total(bin)) {
        result.ties -= count;
        --bin;
      }
      result.key = result.key << digit | bin;
      known += digit;
    }
    return result;
  }

 private:
  struct Histogram {
    std::uint32_t of[2048];
  };

  std::int64_t total(std::uint32_t bin) const {
    std::int64_t sum = 0;
    for (std::size_t part = 0; part < parts_; ++part) sum += counts_[part].of[bin];
    return sum;
  }

  std::size_t parts_;
  std::unique_ptr<Histogram[]> counts_;
};

}  // namespace thinwire::compress
