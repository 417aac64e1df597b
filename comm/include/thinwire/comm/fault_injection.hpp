#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// One thing that goes wrong, once. A test facility.
struct Fault {
  enum class Kind {
    kill,     ///< the process dies by SIGKILL; a rank that is a thread falls silent until the abort
    stall,    ///< nothing happens on this rank for `duration`
    drop,     ///< the call is never made; its Work stays open until time-out or abort
    corrupt,  ///< one bit of what this rank sends is turned over; the caller's buffer is not
              ///< touched
    mismatch,  ///< this rank makes the call with a smaller size
  };
  enum class Phase { post, under_way, done };

  Kind kind = Kind::stall;
  int rank = 0;               ///< of the outermost communicator
  std::string operation{};    ///< the name of the function of Communicator; empty: any
  int call = 0;               ///< at which of this rank's matching calls, from 0; splits count in
  Phase phase = Phase::post;  ///< of kill and stall: before the call, in the first test or wait, or
                              ///< when it is complete and the caller does not know yet
  Timeout duration{1000};
};

/// "kill", "post" and so on, for command lines. Throw InvalidArgument.
Fault::Kind parse_fault_kind(std::string_view text);
Fault::Phase parse_fault_phase(std::string_view text);

/// `inner` with these faults in it, and in the communicators that are split from it. A fault that
/// the operation has no room for (a barrier sends no data to corrupt) does nothing.
///
/// Works as `inner` otherwise, which must outlive it. Thread safety as Communicator.
std::unique_ptr<Communicator> inject_faults(Communicator& inner, std::vector<Fault> faults);

}  // namespace thinwire::comm
