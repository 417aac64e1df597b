#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire::pipeline {

/// Throws FormatError that says where the text stops being JSON.
nlohmann::ordered_json parse_json(std::string_view text, const std::string& what);

/// Reads the fields of one JSON object; a missing one, one of another type and an unknown one are
/// FormatErrors that name the path. Keeps a reference to the JSON, which must outlive it.
class Fields {
 public:
  Fields(const nlohmann::ordered_json& json, std::string path);

  /// {"format": name, "version": version}.
  void require_format(std::string_view name, int version);

  double number(const std::string& key);
  int integer(const std::string& key);
  bool flag(const std::string& key);
  std::string text(const std::string& key);
  std::vector<int> integers(const std::string& key);
  std::vector<std::string> texts(const std::string& key);
  std::map<std::string, double> entries(const std::string& key);
  Fields object(const std::string& key);
  std::vector<Fields> array(const std::string& key);

  /// Call when all known fields have been read.
  void require_all_known() const;

 private:
  const nlohmann::ordered_json& get(const std::string& key);

  const nlohmann::ordered_json& json_;
  std::string path_;
  std::set<std::string> read_;
};

}  // namespace thinwire::pipeline
