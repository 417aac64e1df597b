#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "thinwire/compress/plan.hpp"
#include "thinwire/compress/state.hpp"

namespace thinwire::comm {

/// Residuals of parameters that stand in no bucket, by parameter.
class ResidualShelf {
 public:
  void add(std::vector<compress::Residual> residuals) {
    for (auto& residual : residuals) {
      const std::string name = residual.parameter;
      by_parameter_[name].push_back(std::move(residual));
    }
  }

  /// Copies of what is kept for these parameters.
  std::vector<compress::Residual> of(const std::set<std::string>& parameters) const {
    std::vector<compress::Residual> copies;
    for (const std::string& parameter : parameters) {
      const auto found = by_parameter_.find(parameter);
      if (found == by_parameter_.end()) continue;
      copies.insert(copies.end(), found->second.begin(), found->second.end());
    }
    return copies;
  }

  void erase(const std::set<std::string>& parameters) {
    for (const std::string& parameter : parameters) by_parameter_.erase(parameter);
  }

  /// Gives away what is kept for these parameters.
  std::vector<compress::Residual> take(const std::set<std::string>& parameters) {
    std::vector<compress::Residual> taken;
    for (const std::string& parameter : parameters) {
      const auto found = by_parameter_.find(parameter);
      if (found == by_parameter_.end()) continue;
      for (auto& residual : found->second) taken.push_back(std::move(residual));
      by_parameter_.erase(found);
    }
    return taken;
  }

  std::vector<compress::Residual> all() const {
    std::vector<compress::Residual> copies;
    for (const auto& [_, residuals] : by_parameter_) {
      copies.insert(copies.end(), residuals.begin(), residuals.end());
    }
    return copies;
  }

 private:
  std::map<std::string, std::vector<compress::Residual>> by_parameter_;
};

struct KeptResiduals {
  ResidualShelf worker;
  ResidualShelf server;
};

inline std::set<std::string> parameters_of(const compress::Plan& plan) {
  std::set<std::string> names;
  for (const compress::Span& span : plan.spans()) names.insert(span.parameter);
  return names;
}

/// The parameters that the plan keeps a residual of; one that travels plain keeps what it has on
/// the shelf.
inline std::set<std::string> remembered_parameters(const compress::Plan& plan) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < plan.spans().size(); ++i) {
    if (plan.residual_offset(i) >= 0) names.insert(plan.spans()[i].parameter);
  }
  return names;
}

/// A parameter of `parameters` that stands in the plan; null if none does.
inline const std::string* find_parameter(const compress::Plan& plan,
                                         const std::set<std::string>& parameters) {
  for (const compress::Span& span : plan.spans()) {
    if (parameters.count(span.parameter) != 0) return &span.parameter;
  }
  return nullptr;
}

}  // namespace thinwire::comm
