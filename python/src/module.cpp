#include <pybind11/stl.h>

#include "register.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/compress/codec_spec.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/version.hpp"

namespace {

namespace py = pybind11;
using namespace thinwire;

py::dict build_info() {
  py::dict info;
  info["version"] = THINWIRE_VERSION;
  info["cuda"] = static_cast<bool>(THINWIRE_HAVE_CUDA);
  info["nccl"] = static_cast<bool>(THINWIRE_HAVE_NCCL);
  std::string why;
  info["mpi"] = comm::mpi_available(&why);
  info["simd"] = compress::simd_targets();
  info["compiler"] = __VERSION__;
  return info;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "libthinwire.so for Python: addresses and sizes in, nothing of torch.";
  python::register_errors();
  python::register_communicator(m);
  python::register_collectives(m);
  python::register_engine(m);
#if THINWIRE_HAVE_NCCL
  python::register_cuda(m);
#endif
  m.attr("__version__") = THINWIRE_VERSION;
  m.def("build_info", &build_info);
  m.def(
      "parse_codec", [](const std::string& text) { return to_string(compress::parse_codec(text)); },
      py::arg("text"));
}
