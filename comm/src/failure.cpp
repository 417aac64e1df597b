#include "failure.hpp"

#include <fmt/format.h>

namespace thinwire::comm {

void require_equal_plans(Communicator& communicator, std::span<const compress::Plan> plans,
                         Algorithm algorithm, Timeout timeout) {
  for (const compress::Plan& plan : plans) {
    THINWIRE_EXPECTS(plan.ranks() == communicator.size(), InvalidArgument,
                     fmt::format("rank {}: a plan for {} ranks on a communicator of {}",
                                 communicator.rank(), plan.ranks(), communicator.size()));
  }
  Fields fields{{"number of buckets", std::to_string(plans.size())},
                {"algorithm", std::string{to_string(algorithm)}}};
  for (std::size_t i = 0; i < plans.size(); ++i) {
    for (auto& [name, value] : plans[i].describe()) {
      fields.emplace_back(fmt::format("{} of bucket {}", name, i), value);
    }
  }
  require_equal(communicator.control(), "gradient layout", fields, timeout);
}

void abort_all(Communicator& communicator, Lanes& lanes, std::exception_ptr error) noexcept {
  std::string reason = "unknown error";
  int culprit = communicator.rank();
  try {
    std::rethrow_exception(error);
  } catch (const TransportError& e) {
    reason = e.what();
    if (e.peer >= 0) culprit = e.peer;
  } catch (const std::exception& e) {
    reason = e.what();
  } catch (...) {
  }
  lanes.abort(reason, culprit);
  communicator.abort(reason, culprit);
}

}  // namespace thinwire::comm
