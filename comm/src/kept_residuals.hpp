#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

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

}  // namespace thinwire::comm
