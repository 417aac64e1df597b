#include "failure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire::comm {
namespace {

constexpr std::size_t id_bytes = sizeof(std::uint64_t);

/// The first plan whose id is not the same on all ranks; the number of plans if there is none.
std::size_t first_difference(std::span<const compress::Plan> plans,
                             const std::vector<std::string>& ids_of_ranks) {
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const auto id_of = [i](std::string_view ids) {
      return ids.substr(std::min(i * id_bytes, ids.size()), id_bytes);
    };
    for (const std::string& ids : ids_of_ranks) {
      if (id_of(ids) != id_of(ids_of_ranks[0])) return i;
    }
  }
  return plans.size();
}

/// By their ids first: the fields of thousands of plans do not fit a control message, those of the
/// first that differs do.
void require_equal_layouts_and(Communicator& communicator, std::span<const compress::Plan> plans,
                               Fields fields, Timeout timeout) {
  std::string ids;
  for (const compress::Plan& plan : plans) {
    const std::uint64_t id = plan.id();
    ids.append(reinterpret_cast<const char*>(&id), id_bytes);
  }
  const auto differs = first_difference(plans, communicator.control().all_gather(ids, timeout));
  fields.emplace_back("number of buckets", std::to_string(plans.size()));
  if (differs < plans.size()) {
    for (auto& [name, value] : plans[differs].describe()) {
      fields.emplace_back(fmt::format("{} of bucket {}", name, differs), value);
    }
  }
  require_equal(communicator.control(), "gradient layout", fields, timeout);
}

}  // namespace

void require_equal_layouts(Communicator& communicator, std::span<const compress::Plan> plans,
                           Timeout timeout) {
  require_equal_layouts_and(communicator, plans, {}, timeout);
}

void require_equal_plans(Communicator& communicator, std::span<const compress::Plan> plans,
                         Algorithm algorithm, Timeout timeout) {
  for (const compress::Plan& plan : plans) {
    THINWIRE_EXPECTS(plan.ranks() == communicator.size(), InvalidArgument,
                     fmt::format("rank {}: a plan for {} ranks on a communicator of {}",
                                 communicator.rank(), plan.ranks(), communicator.size()));
  }
  require_equal_layouts_and(communicator, plans, {{"algorithm", std::string{to_string(algorithm)}}},
                            timeout);
}

void abort_all(std::exception_ptr error,
               std::initializer_list<Communicator*> communicators) noexcept {
  std::string reason = "unknown error";
  int culprit = -1;
  bool outside = false;
  try {
    std::rethrow_exception(error);
  } catch (const AbortedError& e) {
    reason = e.what();
    culprit = e.peer;
    outside = culprit < 0;
  } catch (const FormatError& e) {
    reason = e.what();
    culprit = e.peer;
  } catch (const TransportError& e) {
    reason = e.what();
    culprit = e.peer;
  } catch (const std::exception& e) {
    reason = e.what();
  } catch (...) {
  }
  for (Communicator* communicator : communicators) {
    // The first notice counts, and abort() takes -1 for this rank.
    if (outside) communicator->control().post_abort({-1, reason});
    communicator->abort(reason, culprit);
  }
}

}  // namespace thinwire::comm
