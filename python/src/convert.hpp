#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>

#include "thinwire/comm/communicator.hpp"

/// Between Python's plain numbers and thinwire's views.
namespace thinwire::python {

namespace py = pybind11;

inline TensorView view_at(std::uintptr_t address, std::int64_t numel, const std::string& dtype) {
  return {reinterpret_cast<void*>(address), numel, parse_dtype(dtype), Device::host};
}

inline ByteView bytes_at(std::uintptr_t address, std::size_t size) {
  return {reinterpret_cast<std::byte*>(address), size, Device::host};
}

/// Destroys without the GIL: thinwire's destructors wait for threads that may need it.
struct DeleteWithoutGil {
  template <typename T>
  void operator()(T* object) const {
    if (PyGILState_Check() == 0) {
      delete object;
      return;
    }
    const py::gil_scoped_release release;
    delete object;
  }
};

/// A communicator as Python holds it; a child keeps its parent.
struct CommunicatorBox {
  std::shared_ptr<comm::Communicator> own;
  std::shared_ptr<CommunicatorBox> parent{};

  /// Throws AbortedError after close().
  comm::Communicator& get() const {
    if (!own) throw AbortedError{"this communicator has been closed"};
    return *own;
  }
};

inline std::shared_ptr<CommunicatorBox> box(std::unique_ptr<comm::Communicator> communicator,
                                            std::shared_ptr<CommunicatorBox> parent = nullptr) {
  return std::make_shared<CommunicatorBox>(CommunicatorBox{
      std::shared_ptr<comm::Communicator>{communicator.release(), DeleteWithoutGil{}},
      std::move(parent)});
}

}  // namespace thinwire::python
