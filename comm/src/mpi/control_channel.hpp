#pragma once

#include <list>
#include <vector>

#include "point_to_point.hpp"
#include "runtime.hpp"

namespace thinwire::comm {

/// Letters as small MPI messages on a communicator of their own, found by probing.
class MpiControlChannel final : public ControlChannel {
 public:
  explicit MpiControlChannel(MPI_Comm group) : group_{group} {}
  /// Gives letters that are still on their way (an abort notice) a moment to leave.
  ~MpiControlChannel() override;

  void send(int to, std::string_view text) override;
  std::optional<Letter> receive() override;
  void ended() noexcept override { MpiRuntime::get().note_abort(); }

 private:
  struct Moving {
    int peer;
    std::string text;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  bool is_done(Moving& letter);
  void drop_sent();
  void take_arriving();

  const MPI_Comm group_;
  std::list<Moving> outgoing_;  // a list: MPI holds on to the texts
  std::list<Moving> incoming_;
};

}  // namespace thinwire::comm
