#pragma once

#include <memory>
#include <span>
#include <vector>

#include "thinwire/compress/coder.hpp"

namespace thinwire::compress {

/// The two-phase allreduce of all ranks in one place, with the scalar reference coder and no
/// transport: what every rank of a real one must end with, bit for bit. For tests and for the
/// "#wrong" column of the benchmark. Not thread-safe.
class TwoPhaseReference {
 public:
  /// Residuals of all ranks start at zero. Throws OutOfMemory.
  explicit TwoPhaseReference(Plan plan);
  TwoPhaseReference(const TwoPhaseReference&) = delete;
  TwoPhaseReference& operator=(const TwoPhaseReference&) = delete;

  /// `gradients`: one tensor a rank. `out` receives the mean as coded; residuals are committed.
  Verdict allreduce(std::span<const ConstTensorView> gradients, TensorView out,
                    const CallState& call);

  const State& state(int rank) const { return states_[static_cast<std::size_t>(rank)]; }

 private:
  Plan plan_;
  std::unique_ptr<Coder> coder_;
  std::vector<State> states_;
};

}  // namespace thinwire::compress
