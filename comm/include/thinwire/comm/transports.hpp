#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// A group of `ranks` communicators inside this process; element i is rank i's and is used by rank
/// i's thread. For tests and for single-machine use.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int ranks);

/// Runs `body` on `ranks` threads, each with its communicator, and joins them. When a body throws,
/// its communicator is aborted; the first error that is not an AbortedError is thrown again here.
void run_ranks(int ranks, const std::function<void(Communicator&)>& body);

struct MpiOptions {
  /// Longer messages are cut; equal on all ranks; from 4 to 2^30.
  std::size_t chunk_bytes = std::size_t{1} << 30;

  /// Asks MPI for MPI_THREAD_FUNNELED and no more, to see how thinwire does where that is all there
  /// is: a thread of its own makes all calls. Counts at the first communicator only.
  bool one_thread = false;
};

/// MPI_COMM_WORLD, duplicated: the ranks are its. Initialises MPI if the caller has not
/// (MPI_THREAD_MULTIPLE where given) and then finalises it at exit. Loads libthinwire_mpi.so
/// (THINWIRE_MPI_MODULE, or beside libthinwire.so). Collective. Throws TransportError naming the
/// file and the way out if it is missing, TimeoutError if a rank does not come.
///
/// A caller that initialises MPI itself asks for MPI_THREAD_SERIALIZED at least, because an Engine
/// calls MPI on a thread of its own (with less it throws TransportError); and for
/// MPI_THREAD_MULTIPLE if it makes MPI calls of its own between submit and end_step, or at all
/// while a communicator of GPUs stands on this one. It destroys engines and communicators before
/// MPI_Finalize, and after an abort leaves without MPI_Finalize.
///
/// After an abort MPI is not finalised, because MPI_Finalize waits for ranks that may be dead; when
/// a transfer into a buffer could not be cancelled, no MPI call is made any more in this process.
/// Leave the process with a status other than 0 then.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options = {});

/// True if libthinwire_mpi.so can be loaded; the reason in `why` if not.
bool mpi_available(std::string* why = nullptr);

}  // namespace thinwire::comm
