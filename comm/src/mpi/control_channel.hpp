#pragma once

#include <list>
#include <utility>
#include <vector>

#include "contexts.hpp"
#include "point_to_point.hpp"
#include "runtime.hpp"

namespace thinwire::comm {

/// Letters as small MPI messages in a context of their own, found by probing.
class MpiControlChannel final : public ControlChannel {
 public:
  /// `members`: of the group; others may use the context among themselves.
  MpiControlChannel(MPI_Comm group, int context, std::vector<int> members)
      : group_{group}, tag_{tag_in(context, letter_tag)}, members_{std::move(members)} {}
  /// Gives letters that are still on their way (an abort notice) a moment to leave.
  ~MpiControlChannel() override;

  void send(int to, std::string_view text) override;
  std::optional<Letter> receive() override;
  void ended() noexcept override { MpiRuntime::get().note_abort(); }

 private:
  static constexpr int letter_tag = 1;

  struct Moving {
    int peer;
    std::string text;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  bool is_done(Moving& letter);
  void drop_sent();
  void take_arriving();
  int place_of(int rank_in_group) const;

  const MPI_Comm group_;
  const int tag_;
  const std::vector<int> members_;
  std::list<Moving> outgoing_;  // a list: MPI holds on to the texts
  std::list<Moving> incoming_;
};

}  // namespace thinwire::comm
