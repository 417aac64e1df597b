#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "thinwire/pipeline/costs.hpp"
#include "thinwire/pipeline/partition.hpp"
#include "thinwire/pipeline/schedule.hpp"

namespace thinwire::pipeline {

/// Seconds of one pass over a micro-batch of b samples: fixed + b * per_sample.
struct LinearCost {
  double fixed = 0;
  double per_sample = 0;
  double at(double samples) const { return fixed + samples * per_sample; }
};

/// One layer as measured on a rank of speed 1: the smallest piece that can move between stages.
struct LayerProfile {
  std::string name;
  LinearCost forward;
  LinearCost input_gradient;
  LinearCost weight_gradient;
  double optimizer_seconds = 0;        ///< once a step
  double activation_bytes = 0;         ///< held from F to I, per sample
  double weight_activation_bytes = 0;  ///< held from I to W, per sample
  double output_bytes = 0;             ///< sent on, per sample
  double parameter_bytes = 0;
  double optimizer_bytes = 0;  ///< gradients, master copies and moments
};

struct RankProfile {
  double speed = 1;       ///< time = measured / speed
  double memory_cap = 0;  ///< bytes; 0: no limit
};

/// Seconds of a message of b bytes: alpha + b * beta.
struct LinkCost {
  double alpha = 0;
  double beta = 0;
  double at(double bytes) const { return alpha + bytes * beta; }
};

/// What a model costs on a machine: the versioned JSON file "thinwire-profile". Described field by
/// field in docs/pipeline.md. A plain value.
struct Profile {
  std::string model;
  std::string machine;
  std::string dtype;
  std::string made_by;                  ///< the command that measured it
  std::map<std::string, double> sizes;  ///< hidden, sequence, ...; for people
  std::vector<LayerProfile> layers;
  std::vector<RankProfile> ranks;                 ///< empty: as many as asked for, speed 1
  LinkCost link;                                  ///< of every pair of ranks not in `lanes`
  std::map<std::pair<int, int>, LinkCost> lanes;  ///< (source, destination) -> its own cost
  int replicas = 1;                               ///< data-parallel copies of the pipeline
  LinkCost reduce_link;                           ///< between replicas

  double speed_of(int rank) const;
  /// Caps of ranks [0, count); infinity where there is none; empty if no rank has one.
  std::vector<double> caps_of(int count) const;
  const LinkCost& lane(int source, int destination) const;
};

/// Throws InvalidArgument that names the layer, rank or lane and the field for NaN, negative or
/// missing numbers.
void require_usable(const Profile& profile);

/// Both throw FormatError that names the field: not a profile, another version, wrong type, unknown
/// field; and what require_usable throws.
Profile profile_from_json(std::string_view text);
std::string to_json(const Profile& profile);

/// Costs of the stages of `bounds` on `placement` for micro-batches of `samples`. Lanes: per lane
/// alpha + bytes * beta; REDUCE_GRAD: a ring over the replicas, 2 (N-1) messages of 1/N of the
/// parameters. With `recompute` a stage keeps its input alone, and B and I run F again.
Costs stage_costs(const Profile& profile, const Partition& bounds,
                  const std::vector<int>& placement, double samples, bool recompute = false);

}  // namespace thinwire::pipeline
