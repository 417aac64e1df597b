#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "rendezvous.hpp"
#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/validator.hpp"

namespace thinwire::pipeline {
namespace {

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_{seed} {}

  int below(int limit) { return std::uniform_int_distribution<int>{0, limit - 1}(random_); }

  Schedule base() {
    while (true) {
      const auto all = generators();
      const GeneratorInfo& info =
          all[static_cast<std::size_t>(below(static_cast<int>(all.size())))];
      const int p = 2 + below(3);
      const int m = 1 + below(6);
      const int v = info.min_chunks;
      if (can_generate(info.name, p, m, v)) return lower(generate(info.name, p, m, v));
    }
  }

  Execution execution() {
    Execution execution;
    execution.one_lane = below(6) == 0;
    execution.host = static_cast<Execution::Host>(std::max(0, below(12) - 9));
    return execution;
  }

  /// Small edits, which most often leave the schedule sound, and large ones, which do not.
  void mutate(Schedule& schedule) {
    auto& list = schedule.actions[static_cast<std::size_t>(below(schedule.ranks()))];
    const auto any = [&] { return static_cast<std::size_t>(below(static_cast<int>(list.size()))); };
    switch (below(12)) {
      default: {  // neighbours change places
        const std::size_t at = any();
        if (at + 1 < list.size()) std::swap(list[at], list[at + 1]);
        return;
      }
      case 4: {  // one action moves by a few places
        const std::size_t from = any();
        const std::size_t to =
            std::min(list.size() - 1, from + 1 + static_cast<std::size_t>(below(4)));
        std::rotate(list.begin() + static_cast<std::ptrdiff_t>(from),
                    list.begin() + static_cast<std::ptrdiff_t>(from) + 1,
                    list.begin() + static_cast<std::ptrdiff_t>(to) + 1);
        return;
      }
      case 5:
        std::swap(list[any()], list[any()]);
        return;
      case 6:
        if (list.size() > 1) list.erase(list.begin() + static_cast<std::ptrdiff_t>(any()));
        return;
      case 7: {
        const Action copy = list[any()];
        list.insert(list.begin() + static_cast<std::ptrdiff_t>(any()), copy);
        return;
      }
      case 8: {
        Action& action = list[any()];
        if (has_microbatch(action.kind)) action.microbatch = below(schedule.microbatches);
        return;
      }
    }
  }

 private:
  std::mt19937 random_;
};

void drop_joins(Schedule& schedule) {
  for (auto& list : schedule.actions) {
    for (Action& action : list) action.joined = false;
  }
}

TEST(Mutations, ValidatorAndRendezvousExecutor_AgreeBothWays) {
  constexpr int wanted = 10000;
  Mutator mutator{20260801};
  int judged = 0;
  int valid = 0;
  while (judged < wanted) {
    const Schedule base = mutator.base();
    Schedule mutated = base;
    const int edits = 1 + mutator.below(2);
    for (int i = 0; i < edits; ++i) mutator.mutate(mutated);
    drop_joins(mutated);
    Schedule plain = base;
    drop_joins(plain);
    if (mutated == plain) continue;
    const Execution execution = mutator.execution();
    const Verdict verdict = validate(mutated, execution);
    ASSERT_EQ(verdict.valid(), runs_to_the_end(mutated, execution))
        << to_text(mutated) << "one lane " << execution.one_lane << ", host "
        << static_cast<int>(execution.host) << "\n"
        << (verdict.valid() ? "valid" : verdict.defect->message);
    ++judged;
    valid += verdict.valid() ? 1 : 0;
  }
  RecordProperty("valid", valid);
  EXPECT_GE(valid, 2000);
}

}  // namespace
}  // namespace thinwire::pipeline
