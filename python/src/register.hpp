#pragma once

#include <pybind11/pybind11.h>

/// The parts of the module, one file each.
namespace thinwire::python {

/// Translates the types of core/error.hpp into the exceptions of thinwire.errors.
void register_errors();
void register_communicator(pybind11::module_& module);
void register_collectives(pybind11::module_& module);
void register_engine(pybind11::module_& module);
/// In builds with NCCL alone.
void register_cuda(pybind11::module_& module);

}  // namespace thinwire::python
