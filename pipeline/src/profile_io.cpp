#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "json_fields.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/pipeline/profile.hpp"

namespace thinwire::pipeline {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view format_name = "thinwire-profile";
constexpr int version = 1;

ordered_json json_of(const LinearCost& cost) {
  return {{"fixed", cost.fixed}, {"per_sample", cost.per_sample}};
}
ordered_json json_of(const LinkCost& link) { return {{"alpha", link.alpha}, {"beta", link.beta}}; }

LinearCost read_cost(Fields fields) {
  LinearCost cost{fields.number("fixed"), fields.number("per_sample")};
  fields.require_all_known();
  return cost;
}

LinkCost read_link(Fields fields) {
  LinkCost link{fields.number("alpha"), fields.number("beta")};
  fields.require_all_known();
  return link;
}

LayerProfile read_layer(Fields fields) {
  LayerProfile layer;
  layer.name = fields.text("name");
  layer.forward = read_cost(fields.object("forward"));
  layer.input_gradient = read_cost(fields.object("input_gradient"));
  layer.weight_gradient = read_cost(fields.object("weight_gradient"));
  layer.optimizer_seconds = fields.number("optimizer_seconds");
  layer.activation_bytes = fields.number("activation_bytes");
  layer.weight_activation_bytes = fields.number("weight_activation_bytes");
  layer.output_bytes = fields.number("output_bytes");
  layer.parameter_bytes = fields.number("parameter_bytes");
  layer.optimizer_bytes = fields.number("optimizer_bytes");
  fields.require_all_known();
  return layer;
}

}  // namespace

std::string to_json(const Profile& profile) {
  ordered_json json = {{"format", format_name},
                       {"version", version},
                       {"model", profile.model},
                       {"machine", profile.machine},
                       {"dtype", profile.dtype},
                       {"made_by", profile.made_by},
                       {"sizes", profile.sizes},
                       {"layers", ordered_json::array()},
                       {"ranks", ordered_json::array()},
                       {"link", json_of(profile.link)},
                       {"lanes", ordered_json::array()},
                       {"replicas", profile.replicas},
                       {"reduce_link", json_of(profile.reduce_link)}};
  for (const LayerProfile& layer : profile.layers) {
    json["layers"].push_back({{"name", layer.name},
                              {"forward", json_of(layer.forward)},
                              {"input_gradient", json_of(layer.input_gradient)},
                              {"weight_gradient", json_of(layer.weight_gradient)},
                              {"optimizer_seconds", layer.optimizer_seconds},
                              {"activation_bytes", layer.activation_bytes},
                              {"weight_activation_bytes", layer.weight_activation_bytes},
                              {"output_bytes", layer.output_bytes},
                              {"parameter_bytes", layer.parameter_bytes},
                              {"optimizer_bytes", layer.optimizer_bytes}});
  }
  for (const RankProfile& rank : profile.ranks) {
    json["ranks"].push_back({{"speed", rank.speed}, {"memory_cap", rank.memory_cap}});
  }
  for (const auto& [ends, link] : profile.lanes) {
    json["lanes"].push_back({{"source", ends.first},
                             {"destination", ends.second},
                             {"alpha", link.alpha},
                             {"beta", link.beta}});
  }
  return json.dump(1) + "\n";
}

Profile profile_from_json(std::string_view text) {
  const ordered_json json = parse_json(text, "profile");
  Fields fields{json, "profile"};
  fields.require_format(format_name, version);
  Profile profile;
  profile.model = fields.text("model");
  profile.machine = fields.text("machine");
  profile.dtype = fields.text("dtype");
  profile.made_by = fields.text("made_by");
  for (const auto& [name, value] : fields.entries("sizes")) profile.sizes[name] = value;
  for (const Fields& layer : fields.array("layers")) profile.layers.push_back(read_layer(layer));
  for (Fields rank : fields.array("ranks")) {
    profile.ranks.push_back({rank.number("speed"), rank.number("memory_cap")});
    rank.require_all_known();
  }
  profile.link = read_link(fields.object("link"));
  for (Fields lane : fields.array("lanes")) {
    const std::pair<int, int> ends{lane.integer("source"), lane.integer("destination")};
    profile.lanes[ends] = {lane.number("alpha"), lane.number("beta")};
    lane.require_all_known();
  }
  profile.replicas = fields.integer("replicas");
  profile.reduce_link = read_link(fields.object("reduce_link"));
  fields.require_all_known();
  require_usable(profile);
  return profile;
}

}  // namespace thinwire::pipeline
