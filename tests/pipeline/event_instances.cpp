// Prints random schedules with random costs and what simulate() says of them, a JSON object a
// line, for event_simulator.py to recompute. Usage: event_instances COUNT
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "thinwire/pipeline/generators.hpp"
#include "thinwire/pipeline/lowering.hpp"
#include "thinwire/pipeline/simulator.hpp"

using namespace thinwire::pipeline;

namespace {

Costs random_costs(const Schedule& schedule, std::mt19937& random) {
  const auto uniform = [&](double limit) {
    return std::uniform_real_distribution<double>{0, limit}(random);
  };
  Costs costs = uniform_costs(schedule.stages(), 0, 0, 0);
  const bool slow_links = random() % 2 == 0;
  for (std::size_t s = 0; s < costs.stages.size(); ++s) {
    StageCost& stage = costs.stages[s];
    stage.forward = 0.5 + uniform(1);
    stage.input_gradient = 0.5 + uniform(1);
    stage.weight_gradient = random() % 8 == 0 ? 0 : uniform(1.5);
    stage.backward = stage.input_gradient + stage.weight_gradient;
    stage.send_forward = uniform(slow_links ? 3 : 0.2);
    stage.send_backward = uniform(slow_links ? 3 : 0.2);
    stage.reduce = uniform(2);
    stage.optimizer = uniform(1);
    stage.activation = uniform(4);
    stage.weight_activation = uniform(4);
    stage.transient = random() % 3 == 0 ? uniform(4) : 0;
    stage.fixed = uniform(10);
    stage.output = uniform(2);
    if (s > 0) stage.input = costs.stages[s - 1].output;
  }
  return costs;
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 10;
  std::mt19937 random{7};
  const auto all = generators();
  for (int done = 0; done < count;) {
    const GeneratorInfo& info = all[random() % all.size()];
    const int p = 1 + static_cast<int>(random() % 6);
    const int m = 1 + static_cast<int>(random() % 14);
    const int v = info.min_chunks + (info.max_chunks == 0 ? static_cast<int>(random() % 3) : 0);
    if (!can_generate(info.name, p, m, v)) continue;
    Schedule schedule = generate(info.name, p, m, v);
    if (random() % 2 == 0) schedule = lower(schedule);
    const Costs costs = random_costs(schedule, random);
    Execution execution;
    execution.prefetch = static_cast<int>(random() % 3);
    const Timeline timeline = simulate(schedule, costs, execution);

    nlohmann::json line = {{"schedule", to_text(schedule)},
                           {"prefetch", execution.prefetch},
                           {"step_time", timeline.step_time}};
    for (const StageCost& s : costs.stages) {
      line["stages"].push_back({{"F", s.forward},
                                {"B", s.backward},
                                {"I", s.input_gradient},
                                {"W", s.weight_gradient},
                                {"SEND_F", s.send_forward},
                                {"SEND_B", s.send_backward},
                                {"REDUCE_GRAD", s.reduce},
                                {"optimizer", s.optimizer},
                                {"activation", s.activation},
                                {"weight_activation", s.weight_activation},
                                {"transient", s.transient},
                                {"input", s.input},
                                {"output", s.output},
                                {"fixed", s.fixed}});
    }
    for (const RankTimeline& rank : timeline.ranks) {
      line["ranks"].push_back({{"busy", rank.busy}, {"peak_bytes", rank.peak_bytes}});
    }
    std::cout << line.dump() << '\n';
    ++done;
  }
}
