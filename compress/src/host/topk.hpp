#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "host/topk_input.hpp"
#include "host/topk_selection.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/worker_pool.hpp"

namespace thinwire::compress {

/// The verbs for the topk runs of a plan, one run at a time with all threads of the pool. Allocates
/// in the constructor only.
class HostTopk {
 public:
  /// Both must outlive the object.
  HostTopk(const Plan& plan, WorkerPool& pool);

  /// Writes the whole run, padding included. Returns SlotFlag bits.
  std::uint32_t encode(const Run& run, const ConstTensorView& gradients, float inv_scale,
                       const TopkResidual& worker, std::span<std::byte> out);
  std::uint32_t reduce_encode(const Run& run, const TopkPeers& peers, const TopkResidual& server,
                              std::span<std::byte> out);

  /// Adds the peers' runs, multiplies by `mean` and by `out_scale`, and writes source element i to
  /// out[i - origin].
  void decode(const Run& run, const TopkPeers& peers, float mean, float out_scale,
              const TensorView& out, std::int64_t origin, bool streamed) const;

 private:
  std::span<const TopkStrip> strips_of(const Run& run) const;

  struct RunStrips {
    const Run* run;
    std::size_t first;
    std::size_t count;
  };

  WorkerPool* pool_;
  NonFinite policy_;
  std::vector<TopkStrip> strips_;
  std::vector<RunStrips> runs_;
  std::vector<std::uint8_t> touched_;  // by piece of the run at work
  std::unique_ptr<TopkScratch> scratch_;
};

}  // namespace thinwire::compress
