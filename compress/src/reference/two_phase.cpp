#include <cstring>
#include <utility>

#include "thinwire/compress/two_phase_reference.hpp"

namespace thinwire::compress {

TwoPhaseReference::TwoPhaseReference(Plan plan)
    : plan_{std::move(plan)}, coder_{make_reference_coder(plan_)} {
  for (int rank = 0; rank < plan_.ranks(); ++rank) {
    states_.emplace_back(plan_, rank, std::make_shared<HostMemory>());
  }
}

Verdict TwoPhaseReference::allreduce(std::span<const ConstTensorView> gradients, TensorView out,
                                     const CallState& call) {
  const auto ranks = static_cast<std::size_t>(plan_.ranks());
  Verdict verdict;
  for (int chunk = 0; chunk < plan_.chunks(); ++chunk) {
    const std::size_t to_owner = plan_.slot_bytes(chunk, Phase::reduce);
    const std::size_t from_owner = plan_.slot_bytes(chunk, Phase::gather);
    std::vector<std::vector<std::byte>> sent(ranks, std::vector<std::byte>(to_owner * ranks));
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      coder_->encode(chunk, gradients[rank], states_[rank], call, sent[rank]);
    }
    std::vector<std::byte> gathered(from_owner * ranks);
    std::vector<std::byte> received(to_owner * ranks);
    for (std::size_t owner = 0; owner < ranks; ++owner) {
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        std::memcpy(received.data() + rank * to_owner, sent[rank].data() + owner * to_owner,
                    to_owner);
      }
      coder_->reduce_encode(chunk, received, states_[owner], call,
                            {gathered.data() + owner * from_owner, from_owner});
    }
    verdict.flags |= coder_->decode(chunk, gathered, call, out).flags;
  }
  for (State& state : states_) state.commit();
  return verdict;
}

}  // namespace thinwire::compress
