#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "thinwire/comm/work.hpp"

namespace thinwire::comm {

/// Why a communicator ended: the rank that failed first and what it said.
struct AbortNotice {
  int culprit = -1;
  std::string reason;
};

/// The host channel of a communicator, open for its life and apart from its data: small agreed
/// exchanges, and the news of an abort, which reaches every rank whatever it is waiting in.
///
/// Collective calls are made by all ranks in the same order. post_abort and abort_notice may be
/// called from any thread at any time; the rest from one thread at a time.
class ControlPlane {
 public:
  virtual ~ControlPlane() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Collective: every rank's bytes, in rank order; at most max_message bytes each. Blocks.
  /// Throws InvalidArgument, TimeoutError naming the ranks that are missing, or AbortedError.
  virtual std::vector<std::string> all_gather(std::string_view mine, Timeout timeout) = 0;

  /// Tells every rank that this communicator is over. The first notice wins; later ones do nothing.
  virtual void post_abort(const AbortNotice& notice) noexcept = 0;

  /// The notice, if any rank has posted one. Does not block.
  virtual std::optional<AbortNotice> abort_notice() = 0;

  /// From now on what this rank posts here ends the communicator that this one was split from, too.
  /// (The other way round it is always so.) Does nothing on one that was not split.
  virtual void tie_to_parent() = 0;

  static constexpr std::size_t max_message = std::size_t{1} << 20;
};

/// Collective: throws MismatchError, on every rank, naming the first field in which some rank
/// differs from rank 0, with both values. `context` stands first in the message ("bucket 'fc1'").
using Fields = std::vector<std::pair<std::string, std::string>>;
void require_equal(ControlPlane& control, std::string_view context, const Fields& fields,
                   Timeout timeout);

/// Collective: rank 0's bytes, on every rank.
std::string broadcast_from_root(ControlPlane& control, std::string_view value, Timeout timeout);

}  // namespace thinwire::comm
