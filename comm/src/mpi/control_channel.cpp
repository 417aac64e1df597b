#include "control_channel.hpp"

#include <algorithm>
#include <string>

#include "backoff.hpp"
#include "thinwire/comm/control_plane.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

constexpr std::chrono::milliseconds time_to_leave{300};

/// A text of max_message and what the control plane puts before it.
constexpr std::size_t max_letter = ControlPlane::max_message + 64;

}  // namespace

MpiControlChannel::~MpiControlChannel() {
  auto& mpi = MpiRuntime::get();
  try {
    const auto deadline = deadline_after(time_to_leave);
    for (Backoff backoff; mpi.usable(); backoff.pause()) {
      drop_sent();
      if (outgoing_.empty() || std::chrono::steady_clock::now() >= deadline) break;
    }
  } catch (const std::exception& error) {
    log(LogLevel::warning, error.what());
  }
  // MPI still reads what has not left, and may write what has not come: that memory stays.
  if (!outgoing_.empty()) new std::list<Moving>{std::move(outgoing_)};
  if (!incoming_.empty()) new std::list<Moving>{std::move(incoming_)};
}

void MpiControlChannel::send(int to, std::string_view text) {
  if (!MpiRuntime::get().usable()) return;  // whoever waits for it learns by its own time-out
  auto& letter = outgoing_.emplace_back(Moving{to, std::string{text}});
  MpiRuntime::get().call("MPI_Isend", MPI_Isend, letter.text.data(),
                         static_cast<int>(letter.text.size()), MPI_BYTE,
                         members_[static_cast<std::size_t>(to)], tag_, group_, &letter.request);
}

std::optional<ControlChannel::Letter> MpiControlChannel::receive() {
  if (!MpiRuntime::get().usable()) return std::nullopt;
  drop_sent();
  take_arriving();
  for (auto letter = incoming_.begin(); letter != incoming_.end(); ++letter) {
    if (!is_done(*letter)) continue;
    Letter arrived{letter->peer, std::move(letter->text)};
    incoming_.erase(letter);
    return arrived;
  }
  return std::nullopt;
}

bool MpiControlChannel::is_done(Moving& letter) {
  int done = 0;
  MpiRuntime::get().call("MPI_Test", MPI_Test, &letter.request, &done, MPI_STATUS_IGNORE);
  return done != 0;
}

void MpiControlChannel::drop_sent() {
  outgoing_.remove_if([this](Moving& letter) { return is_done(letter); });
}

int MpiControlChannel::place_of(int rank_in_group) const {
  return static_cast<int>(std::find(members_.begin(), members_.end(), rank_in_group) -
                          members_.begin());
}

void MpiControlChannel::take_arriving() {
  auto& mpi = MpiRuntime::get();
  for (;;) {
    int found = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status{};
    mpi.call("MPI_Improbe", MPI_Improbe, MPI_ANY_SOURCE, tag_, group_, &found, &message, &status);
    if (found == 0) return;
    int bytes = 0;
    mpi.call("MPI_Get_count", MPI_Get_count, &status, MPI_BYTE, &bytes);
    THINWIRE_EXPECTS(bytes >= 0 && static_cast<std::size_t>(bytes) <= max_letter, FormatError,
                     "control letter of " + std::to_string(bytes) + " bytes from rank " +
                         std::to_string(status.MPI_SOURCE) + "; at most " +
                         std::to_string(max_letter) + " are sent");
    auto& letter = incoming_.emplace_back(
        Moving{place_of(status.MPI_SOURCE), std::string(static_cast<std::size_t>(bytes), '\0')});
    mpi.call("MPI_Imrecv", MPI_Imrecv, letter.text.data(), bytes, MPI_BYTE, &message,
             &letter.request);
  }
}

}  // namespace thinwire::comm
