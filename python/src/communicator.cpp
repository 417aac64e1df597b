#include "thinwire/comm/communicator.hpp"

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "convert.hpp"
#include "register.hpp"
#include "thinwire/comm/callback.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::python {
namespace {

/// An object of Python that serves all_to_all on a process group.
class PythonExchange final : public comm::ByteExchange {
 public:
  /// With the GIL.
  explicit PythonExchange(py::object group)
      : group_{std::move(group)},
        rank_{group_.attr("rank").cast<int>()},
        size_{group_.attr("size").cast<int>()} {}

  ~PythonExchange() override {
    const py::gil_scoped_acquire gil;
    group_ = {};
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_to_all(ConstByteView in, std::span<const std::size_t> in_bytes, ByteView out,
                  std::span<const std::size_t> out_bytes, Done done) override {
    const py::gil_scoped_acquire gil;
    try {
      group_.attr("all_to_all")(reinterpret_cast<std::uintptr_t>(in.data), list_of(in_bytes),
                                reinterpret_cast<std::uintptr_t>(out.data), list_of(out_bytes),
                                py::cpp_function(std::move(done)));
    } catch (const py::error_already_set& error) {
      throw TransportError{error.what()};
    }
  }

  std::unique_ptr<comm::ByteExchange> split(std::span<const int> members,
                                            const std::string& name) override {
    const py::gil_scoped_acquire gil;
    try {
      return std::make_unique<PythonExchange>(group_.attr("split")(list_of(members), name));
    } catch (const py::error_already_set& error) {
      throw TransportError{error.what()};
    }
  }

 private:
  template <typename T>
  static py::list list_of(std::span<const T> values) {
    py::list list;
    for (const T value : values) list.append(value);
    return list;
  }

  py::object group_;
  int rank_;
  int size_;
};

comm::ReduceOp parse_op(const std::string& text) {
  if (text == "sum") return comm::ReduceOp::sum;
  if (text == "avg") return comm::ReduceOp::avg;
  if (text == "max") return comm::ReduceOp::max;
  throw InvalidArgument{"unknown reduction '" + text + "'; use sum, avg or max"};
}

/// On the host an operation is over when the call returns; on a GPU the stream orders it.
void finish(const CommunicatorBox& box, const comm::WorkHandle& work) {
  if (box.get().device() == Device::host) work->wait();
}

std::shared_ptr<CommunicatorBox> over_group(py::object group, const std::string& host, int port,
                                            const std::string& secret) {
  auto exchange = std::make_unique<PythonExchange>(std::move(group));
  const comm::TcpRendezvous rendezvous{exchange->rank(), exchange->size(), host, port,
                                       secret,           config().timeout};
  const py::gil_scoped_release release;
  return box(comm::make_callback_communicator(std::move(exchange), rendezvous));
}

}  // namespace

void register_communicator(py::module_& module) {
  using Box = CommunicatorBox;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<Box, std::shared_ptr<Box>>(module, "Communicator")
      .def_property_readonly("rank", [](const Box& b) { return b.get().rank(); })
      .def_property_readonly("size", [](const Box& b) { return b.get().size(); })
      .def_property_readonly("local_rank", [](const Box& b) { return b.get().local_rank(); })
      .def_property_readonly("local_size", [](const Box& b) { return b.get().local_size(); })
      .def_property_readonly("transport",
                             [](const Box& b) { return std::string{b.get().transport()}; })
      .def_readonly("device", &Box::device)
      .def(
          "allreduce",
          [](const Box& b, std::uintptr_t address, std::int64_t numel, const std::string& dtype,
             const std::string& op, std::uintptr_t stream) {
            const OnDevice on{b.device};
            const TensorView view = view_at(address, numel, dtype, b.get().device());
            finish(b, b.get().allreduce(view, view, parse_op(op), stream_at(stream)));
          },
          py::arg("address"), py::arg("numel"), py::arg("dtype"), py::arg("op"), py::arg("stream"),
          NoGil{})
      .def(
          "reduce_scatter",
          [](const Box& b, std::uintptr_t in, std::uintptr_t out, std::int64_t out_numel,
             const std::string& dtype, const std::string& op, std::uintptr_t stream) {
            const OnDevice on{b.device};
            auto& communicator = b.get();
            const Device device = communicator.device();
            finish(b, communicator.reduce_scatter(
                          view_at(in, out_numel * communicator.size(), dtype, device),
                          view_at(out, out_numel, dtype, device), parse_op(op), stream_at(stream)));
          },
          py::arg("source"), py::arg("out"), py::arg("out_numel"), py::arg("dtype"), py::arg("op"),
          py::arg("stream"), NoGil{})
      .def(
          "all_gather",
          [](const Box& b, std::uintptr_t in, std::size_t in_bytes, std::uintptr_t out,
             std::uintptr_t stream) {
            const OnDevice on{b.device};
            auto& communicator = b.get();
            const auto ranks = static_cast<std::size_t>(communicator.size());
            const Device device = communicator.device();
            finish(b, communicator.all_gather(bytes_at(in, in_bytes, device),
                                              bytes_at(out, in_bytes * ranks, device),
                                              stream_at(stream)));
          },
          py::arg("source"), py::arg("source_bytes"), py::arg("out"), py::arg("stream"), NoGil{})
      .def(
          "barrier",
          [](const Box& b) {
            const OnDevice on{b.device};
            b.get().barrier()->wait();
          },
          NoGil{})
      .def(
          "require_equal",
          [](const Box& b, const std::string& context, const comm::Fields& fields) {
            comm::require_equal(b.get().control(), context, fields, config().timeout);
          },
          py::arg("context"), py::arg("fields"), NoGil{})
      .def(
          "gather_texts",
          [](const Box& b, const std::string& mine) {
            return b.get().control().all_gather(mine, config().timeout);
          },
          py::arg("mine"), NoGil{})
      .def(
          "split",
          [](const Box& b, int color, int key) {
            const OnDevice on{b.device};
            const auto parent = b.share();
            auto child = parent->own->split(color, key);
            return child ? box(std::move(child), parent, b.device) : nullptr;
          },
          py::arg("color"), py::arg("key"), NoGil{})
      .def(
          "abort", [](const Box& b, const std::string& reason) { b.get().abort(reason); },
          py::arg("reason"), NoGil{})
      .def(
          "close",
          [](Box& b) {
            const OnDevice on{b.device};
            b.open.reset();
          },
          NoGil{});

  module.def(
      "mpi_communicator", [] { return box(comm::make_mpi_communicator()); }, NoGil{});
  module.def("mpi_available", [] {
    std::string why;
    const bool available = comm::mpi_available(&why);
    return py::make_tuple(available, why);
  });
  module.def("group_communicator", &over_group, py::arg("group"), py::arg("host"), py::arg("port"),
             py::arg("secret"));
  module.def("timeout_seconds", [] { return static_cast<double>(config().timeout.count()) / 1e3; });
  module.def("set_log_rank", &set_log_rank, py::arg("rank"));
}

}  // namespace thinwire::python
