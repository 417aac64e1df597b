#pragma once

#include <cstdint>
#include <memory>

#include "thinwire/comm/mpi_baseline.hpp"
#include "thinwire/comm/transports.hpp"

/// The door between libthinwire.so and libthinwire_mpi.so, which is opened by dlopen so that a
/// machine without MPI can run the rest. Behind the door stands C++: both sides must be of one
/// build, which abi and version prove.
namespace thinwire::comm {

struct MpiModule {
  std::uint32_t abi;    ///< mpi_module_abi of the module; the first member for ever
  const char* version;  ///< of thinwire
  std::unique_ptr<Communicator> (*make)(const MpiOptions& options);
  std::unique_ptr<MpiBaseline> (*make_baseline)(MpiAllreduce algorithm);
};

/// Counts changes of MpiModule and of what its users and makers share.
constexpr std::uint32_t mpi_module_abi = 1;

}  // namespace thinwire::comm

/// Never null; never throws.
extern "C" const thinwire::comm::MpiModule* thinwire_mpi_module();
constexpr const char* thinwire_mpi_module_symbol = "thinwire_mpi_module";
