#pragma once

#include <memory>

#include "thinwire/comm/mpi_baseline.hpp"

namespace thinwire::comm {

/// What make_mpi_baseline promises, inside the module.
std::unique_ptr<MpiBaseline> make_mpi_baseline_here(MpiAllreduce algorithm);

}  // namespace thinwire::comm
