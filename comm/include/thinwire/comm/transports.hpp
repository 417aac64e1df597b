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

/// MPI_COMM_WORLD, duplicated. Initialises MPI if the caller has not (MPI_THREAD_MULTIPLE where
/// given) and then finalises it at exit. Loads libthinwire_mpi.so (THINWIRE_MPI_MODULE, or beside
/// libthinwire.so). Collective. Throws TransportError naming the file and the way out if it is
/// missing.
std::unique_ptr<Communicator> make_mpi_communicator();

/// True if libthinwire_mpi.so can be loaded; the reason in `why` if not.
bool mpi_available(std::string* why = nullptr);

}  // namespace thinwire::comm
