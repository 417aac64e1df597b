#include "failure.hpp"

#include <fmt/format.h>

namespace thinwire::comm {
namespace {

Fields layout_fields(std::span<const compress::Plan> plans) {
  Fields fields{{"number of buckets", std::to_string(plans.size())}};
  for (std::size_t i = 0; i < plans.size(); ++i) {
    for (auto& [name, value] : plans[i].describe()) {
      fields.emplace_back(fmt::format("{} of bucket {}", name, i), value);
    }
  }
  return fields;
}

}  // namespace

void require_equal_layouts(Communicator& communicator, std::span<const compress::Plan> plans,
                           Timeout timeout) {
  require_equal(communicator.control(), "gradient layout", layout_fields(plans), timeout);
}

void require_equal_plans(Communicator& communicator, std::span<const compress::Plan> plans,
                         Algorithm algorithm, Timeout timeout) {
  for (const compress::Plan& plan : plans) {
    THINWIRE_EXPECTS(plan.ranks() == communicator.size(), InvalidArgument,
                     fmt::format("rank {}: a plan for {} ranks on a communicator of {}",
                                 communicator.rank(), plan.ranks(), communicator.size()));
  }
  Fields fields = layout_fields(plans);
  fields.emplace_back("algorithm", to_string(algorithm));
  require_equal(communicator.control(), "gradient layout", fields, timeout);
}

void abort_all(std::exception_ptr error,
               std::initializer_list<Communicator*> communicators) noexcept {
  std::string reason = "unknown error";
  int culprit = -1;
  try {
    std::rethrow_exception(error);
  } catch (const TransportError& e) {
    reason = e.what();
    culprit = e.peer;
  } catch (const std::exception& e) {
    reason = e.what();
  } catch (...) {
  }
  for (Communicator* communicator : communicators) communicator->abort(reason, culprit);
}

}  // namespace thinwire::comm
