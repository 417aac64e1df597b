#pragma once

#include <fmt/format.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "plans.hpp"
#include "two_phase.hpp"

/// What the golden files hold: the bytes of the wire format, fixed for ever for a version.
namespace thinwire::compress::test {

/// File name without directory -> content.
using GoldenFiles = std::map<std::string, std::vector<std::byte>>;

/// Two steps of an allreduce of 1500 + 70 elements between two ranks, gradients from
/// awkward_gradients(1570, 1000 * step + rank), inverse scale 0.5. NAME.reduce.bin: the two slots
/// of the last step that rank 0 sent. NAME.gather.bin: the two slots that the owners sent.
/// NAME.out.bin: what every rank decoded, fp32.
inline void add_golden_case(GoldenFiles& files, const std::string& name, const Plan& plan,
                            bool non_finite, const CoderFactory& make_coder) {
  TwoPhase world{plan, make_coder};
  const float inv_scale = 0.5f;
  std::vector<float> out;
  for (unsigned step = 0; step < 2; ++step) {
    auto gradients = awkward_gradients_of_ranks(2, plan.elements(), step);
    if (non_finite && step == 1) gradients[0][7] = std::numeric_limits<float>::infinity();
    world.allreduce(gradients, out, {.inv_scale = &inv_scale});
    world.commit();
  }
  const auto sent = world.sent(0, 0);
  const auto reduced = world.reduced(0);
  const auto* bytes = reinterpret_cast<const std::byte*>(out.data());
  files[name + ".reduce.bin"] = {sent.begin(), sent.end()};
  files[name + ".gather.bin"] = {reduced.begin(), reduced.end()};
  files[name + ".out.bin"] = {bytes, bytes + out.size() * sizeof(float)};
}

inline GoldenFiles golden_files(const CoderFactory& make_coder) {
  const auto spans = contiguous_spans({1500, 70});
  GoldenFiles files;
  for (const auto& [name, codec] :
       std::vector<std::pair<std::string, std::string>>{{"bf16", "bf16+ef"},
                                                        {"fp16", "fp16"},
                                                        {"int8", "int8"},
                                                        {"int4", "int4"},
                                                        {"sign", "sign"},
                                                        {"sign_rms", "sign:rms"},
                                                        {"topk", "topk:0.05/0.1"}}) {
    const Plan plan{{parse_codec(codec)}, spans, with_ranks(2)};
    add_golden_case(files, name, plan, false, make_coder);
    if (name == "sign" || name == "topk") {
      add_golden_case(files, name + "_non_finite", plan, true, make_coder);
    }
  }
  auto mixed = spans;
  mixed[1].section = 1;
  add_golden_case(files, "mixed",
                  Plan{{parse_codec("int4"), parse_codec("none")}, mixed, with_ranks(2)}, false,
                  make_coder);
  return files;
}

}  // namespace thinwire::compress::test
