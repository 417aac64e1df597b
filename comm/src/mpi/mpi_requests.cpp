#include "mpi_requests.hpp"

#include <algorithm>
#include <string>

#include "backoff.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {

MpiRequest::~MpiRequest() {
  if (next_ == requests_.size()) return;
  try {
    give_up();
  } catch (const std::exception& error) {
    MpiRuntime::get().freeze(error.what());
  }
}

bool MpiRequest::test() {
  auto& mpi = MpiRuntime::get();
  for (; next_ < requests_.size(); ++next_) {
    int done = 0;
    MPI_Status status{};
    const int code = mpi.call_raw(name(), MPI_Test, &requests_[next_], &done, &status);
    if (code == MPI_SUCCESS && done == 0) return false;
    check_chunk(code, status);
  }
  return true;
}

void MpiRequest::check_chunk(int code, const MPI_Status& status) const {
  auto& mpi = MpiRuntime::get();
  int error_class = MPI_SUCCESS;
  mpi.call("MPI_Error_class", MPI_Error_class, code, &error_class);
  const bool too_long = kind_ == Kind::receive && error_class == MPI_ERR_TRUNCATE;
  if (code != MPI_SUCCESS && !too_long) {
    try {
      mpi.expect_success(name(), code);
    } catch (const TransportError& error) {
      throw TransportError{error.what(), peer_};
    }
  }
  if (kind_ != Kind::receive) return;
  int arrived = 0;
  mpi.call("MPI_Get_count", MPI_Get_count, &status, MPI_BYTE, &arrived);
  const auto before = next_ * chunk_bytes_;
  const auto expected = std::min(chunk_bytes_, bytes_ - before);
  // What MPI says of a message that was too long is up to it: Open MPI tells the size.
  if (too_long && static_cast<std::size_t>(arrived) <= expected) {
    throw UnexpectedSize{"more than " + std::to_string(bytes_)};
  }
  if (static_cast<std::size_t>(arrived) == expected) return;
  const auto total = before + static_cast<std::size_t>(arrived);
  // A full chunk is followed by more, an unknown number of bytes.
  const bool is_last = static_cast<std::size_t>(arrived) < chunk_bytes_;
  throw UnexpectedSize{(is_last ? "" : "at least ") + std::to_string(total)};
}

void MpiRequest::give_up() {
  auto& mpi = MpiRuntime::get();
  if (!mpi.usable()) return;
  for (auto i = next_; kind_ == Kind::receive && i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    mpi.call("MPI_Cancel", MPI_Cancel, &requests_[i]);
  }
  for (Backoff backoff;; backoff.pause()) {
    bool open = false;
    for (auto i = next_; i < requests_.size(); ++i) {
      int done = 0;
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      // Whether it failed does not matter any more, only whether it has ended.
      const int code = mpi.call_raw(name(), MPI_Test, &requests_[i], &done, MPI_STATUS_IGNORE);
      if (code != MPI_SUCCESS) requests_[i] = MPI_REQUEST_NULL;
      open = open || requests_[i] != MPI_REQUEST_NULL;
    }
    if (!open) return;
    if (!drain_.left()) break;
  }
  if (kind_ != Kind::send || peer_is_lost_) {
    mpi.freeze(std::string{name()} + " was under way when its communicator ended");
  }
}

const char* MpiRequest::name() const {
  switch (kind_) {
    case Kind::send:
      return "MPI_Isend";
    case Kind::receive:
      return "MPI_Irecv";
    case Kind::collective:
      return "MPI_Iallreduce";
  }
  return "MPI";
}

}  // namespace thinwire::comm
