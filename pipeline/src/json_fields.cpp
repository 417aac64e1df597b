#include "json_fields.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "thinwire/core/error.hpp"

namespace thinwire::pipeline {
namespace {

void require_type(bool right, const std::string& path, std::string_view type,
                  const nlohmann::ordered_json& json) {
  THINWIRE_EXPECTS(right, FormatError,
                   fmt::format("{} must be {}, but is {}", path, type, json.dump().substr(0, 40)));
}

}  // namespace

nlohmann::ordered_json parse_json(std::string_view text, const std::string& what) {
  try {
    return nlohmann::ordered_json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw FormatError{fmt::format("{}: not JSON: {}", what, error.what())};
  }
}

Fields::Fields(const nlohmann::ordered_json& json, std::string path)
    : json_{json}, path_{std::move(path)} {
  require_type(json.is_object(), path_, "an object", json);
}

const nlohmann::ordered_json& Fields::get(const std::string& key) {
  const auto found = json_.find(key);
  THINWIRE_EXPECTS(found != json_.end(), FormatError,
                   fmt::format("{}: the field '{}' is missing", path_, key));
  read_.insert(key);
  return *found;
}

void Fields::require_format(std::string_view name, int version) {
  const std::string found = text("format");
  THINWIRE_EXPECTS(found == name, FormatError,
                   fmt::format("{}: the format is '{}', not '{}'", path_, found, name));
  const int number = integer("version");
  THINWIRE_EXPECTS(
      number == version, FormatError,
      fmt::format("{}: version {}, but this program reads version {}", path_, number, version));
}

double Fields::number(const std::string& key) {
  const auto& value = get(key);
  require_type(value.is_number(), path_ + "." + key, "a number", value);
  return value.get<double>();
}

int Fields::integer(const std::string& key) {
  const auto& value = get(key);
  const bool in_range = value.is_number_integer() && value.get<std::int64_t>() >= INT32_MIN &&
                        value.get<std::int64_t>() <= INT32_MAX;
  require_type(in_range, path_ + "." + key, "an integer", value);
  return value.get<int>();
}

bool Fields::flag(const std::string& key) {
  const auto& value = get(key);
  require_type(value.is_boolean(), path_ + "." + key, "true or false", value);
  return value.get<bool>();
}

std::string Fields::text(const std::string& key) {
  const auto& value = get(key);
  require_type(value.is_string(), path_ + "." + key, "a string", value);
  return value.get<std::string>();
}

std::vector<int> Fields::integers(const std::string& key) {
  const auto& values = get(key);
  require_type(values.is_array(), path_ + "." + key, "an array", values);
  std::vector<int> result;
  for (const auto& value : values) {
    require_type(value.is_number_integer(), path_ + "." + key, "integers", value);
    result.push_back(value.get<int>());
  }
  return result;
}

std::vector<std::string> Fields::texts(const std::string& key) {
  const auto& values = get(key);
  require_type(values.is_array(), path_ + "." + key, "an array", values);
  std::vector<std::string> result;
  for (const auto& value : values) {
    require_type(value.is_string(), path_ + "." + key, "strings", value);
    result.push_back(value.get<std::string>());
  }
  return result;
}

std::map<std::string, double> Fields::entries(const std::string& key) {
  const auto& values = get(key);
  require_type(values.is_object(), path_ + "." + key, "an object", values);
  std::map<std::string, double> result;
  for (const auto& [name, value] : values.items()) {
    require_type(value.is_number(), fmt::format("{}.{}.{}", path_, key, name), "a number", value);
    result[name] = value.get<double>();
  }
  return result;
}

Fields Fields::object(const std::string& key) { return {get(key), path_ + "." + key}; }

std::vector<Fields> Fields::array(const std::string& key) {
  const auto& values = get(key);
  require_type(values.is_array(), path_ + "." + key, "an array", values);
  std::vector<Fields> result;
  for (std::size_t i = 0; i < values.size(); ++i) {
    result.emplace_back(values[i], fmt::format("{}.{}[{}]", path_, key, i));
  }
  return result;
}

void Fields::require_all_known() const {
  for (const auto& [key, value] : json_.items()) {
    THINWIRE_EXPECTS(read_.contains(key), FormatError,
                     fmt::format("{}: unknown field '{}'", path_, key));
  }
}

}  // namespace thinwire::pipeline
