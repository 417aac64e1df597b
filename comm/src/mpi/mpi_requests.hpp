#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "point_to_point.hpp"
#include "runtime.hpp"

namespace thinwire::comm {

/// How long the transfers of an aborted communicator may still take to end by themselves: the time
/// runs from the first one that is given up, for all together.
class DrainBudget {
 public:
  bool left() {
    const auto now = std::chrono::steady_clock::now();
    if (!deadline_) deadline_ = now + total;
    return now < *deadline_;
  }

 private:
  static constexpr std::chrono::milliseconds total{150};
  std::optional<std::chrono::steady_clock::time_point> deadline_;
};

/// A message or collective under way, as the MPI requests of its chunks.
///
/// Given up unfinished, it cancels what can be cancelled and lets the rest end within the drain
/// budget. What is then still able to write into its buffer freezes MPI. A send is left behind: a
/// peer that has ended the communicator too receives no more of it. One that is lost may have
/// stalled in the middle and read on later, when the buffer is gone: that freezes MPI as well.
class MpiRequest final : public Request {
 public:
  enum class Kind { send, receive, collective };

  /// `chunk_bytes` and `bytes`: of a receive, to check what arrives. `drain` outlives the request.
  MpiRequest(Kind kind, int peer, std::size_t bytes, std::size_t chunk_bytes, DrainBudget& drain)
      : kind_{kind}, peer_{peer}, bytes_{bytes}, chunk_bytes_{chunk_bytes}, drain_{drain} {}
  ~MpiRequest() override;

  bool test() override;
  void lose_peer() override { peer_is_lost_ = true; }

  /// A further MPI request, for a call to fill; complete when all are.
  MPI_Request* add() { return &requests_.emplace_back(MPI_REQUEST_NULL); }

 private:
  void check_chunk(int code, const MPI_Status& status) const;
  void give_up();
  const char* name() const;

  const Kind kind_;
  const int peer_;
  const std::size_t bytes_;
  const std::size_t chunk_bytes_;
  DrainBudget& drain_;
  std::vector<MPI_Request> requests_;
  std::size_t next_ = 0;  // the first that is not complete
  bool peer_is_lost_ = false;
};

}  // namespace thinwire::comm
