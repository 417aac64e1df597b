#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/plan.hpp"
#include "thinwire/core/cuda/device.hpp"

/// Between Python's plain numbers and thinwire's views.
namespace thinwire::python {

namespace py = pybind11;

inline TensorView view_at(std::uintptr_t address, std::int64_t numel, const std::string& dtype,
                          Device device) {
  return {reinterpret_cast<void*>(address), numel, parse_dtype(dtype), device};
}

inline ByteView bytes_at(std::uintptr_t address, std::size_t size, Device device) {
  return {reinterpret_cast<std::byte*>(address), size, device};
}

/// 0: the default stream.
inline StreamView stream_at(std::uintptr_t address) {
  return StreamView{reinterpret_cast<CUstream_st*>(address)};
}

/// A flat tensor as one span; its name is what its residual is known by.
inline std::vector<compress::Span> whole(const std::string& name, std::int64_t numel) {
  return {compress::Span{.parameter = name, .length = numel}};
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

/// Makes a GPU the calling thread's current one while it lives; none for a device below 0.
class OnDevice {
 public:
  explicit OnDevice([[maybe_unused]] int device) {
#if THINWIRE_HAVE_CUDA
    if (device >= 0) guard_.emplace(device);
#endif
  }

 private:
#if THINWIRE_HAVE_CUDA
  std::optional<DeviceGuard> guard_;
#endif
};

/// A communicator with what it stands on: the library's children use their parent to the end.
struct OpenCommunicator {
  std::shared_ptr<OpenCommunicator> parent;  // first, so that it is destroyed last
  std::unique_ptr<comm::Communicator> own;
  // Of the compressed operations on the host, made by the first; they run one after the other.
  std::shared_ptr<WorkerPool> pool{};
  comm::SharedLanes lanes{};
};

/// A communicator as Python holds it. Closing it drops Python's use: it ends when its children and
/// operations, which share it, have ended too.
struct CommunicatorBox {
  std::shared_ptr<OpenCommunicator> open;
  int device = -1;  ///< the GPU of a communicator over NCCL

  /// Throws AbortedError after close().
  const std::shared_ptr<OpenCommunicator>& share() const {
    if (!open) throw AbortedError{"this communicator has been closed"};
    return open;
  }
  comm::Communicator& get() const { return *share()->own; }
};

inline std::shared_ptr<CommunicatorBox> box(std::unique_ptr<comm::Communicator> communicator,
                                            std::shared_ptr<OpenCommunicator> parent = nullptr,
                                            int device = -1) {
  std::shared_ptr<OpenCommunicator> open{
      new OpenCommunicator{std::move(parent), std::move(communicator)}, DeleteWithoutGil{}};
  return std::make_shared<CommunicatorBox>(CommunicatorBox{std::move(open), device});
}

}  // namespace thinwire::python
