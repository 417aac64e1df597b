#include "ranks.hpp"

#include <fmt/format.h>

#include <cstring>
#include <exception>
#include <string>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {

using thinwire::comm::Communicator;

void together(Communicator& communicator, const std::function<void()>& work) {
  std::exception_ptr mine;
  std::string reason;  // empty: went well
  try {
    work();
  } catch (const std::exception& error) {
    mine = std::current_exception();
    reason = fmt::format("rank {} failed: {}", communicator.rank(), error.what());
  }
  const auto reasons = communicator.control().all_gather(reason, thinwire::config().timeout);
  if (mine) std::rethrow_exception(mine);
  for (int rank = 0; rank < communicator.size(); ++rank) {
    const auto& theirs = reasons[static_cast<std::size_t>(rank)];
    if (!theirs.empty()) throw thinwire::AbortedError{theirs, rank};
  }
}

std::vector<double> mean_over_ranks(Communicator& communicator, const std::vector<double>& values) {
  const std::string mine{reinterpret_cast<const char*>(values.data()),
                         values.size() * sizeof(double)};
  std::vector<double> mean(values.size());
  for (const auto& theirs : communicator.control().all_gather(mine, thinwire::config().timeout)) {
    THINWIRE_EXPECTS(theirs.size() == mine.size(), thinwire::FormatError,
                     "mean_over_ranks: ranks give different numbers of values");
    for (std::size_t i = 0; i < mean.size(); ++i) {
      double value = 0;
      std::memcpy(&value, theirs.data() + i * sizeof value, sizeof value);
      mean[i] += value / communicator.size();
    }
  }
  return mean;
}

}  // namespace fashion
