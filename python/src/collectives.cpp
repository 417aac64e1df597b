#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "convert.hpp"
#include "register.hpp"
#include "thinwire/comm/sharded.hpp"

namespace thinwire::python {
namespace {

using compress::parse_codec;

using Open = std::shared_ptr<OpenCommunicator>;

std::shared_ptr<WorkerPool> pool_of(OpenCommunicator& open) {
  if (!open.pool) open.pool = std::make_shared<WorkerPool>(comm::default_codec_threads(*open.own));
  return open.pool;
}

/// One tensor's compressed allreduce, kept between calls for its residual.
struct TensorAllreduce {
  TensorAllreduce(const std::shared_ptr<CommunicatorBox>& box, const std::string& name,
                  std::int64_t numel, const std::string& dtype, const std::string& codec)
      : open{box->share()},
        allreduce{*open->own,
                  compress::Plan{{parse_codec(codec)},
                                 whole(name, numel),
                                 {.ranks = open->own->size(), .dtype = parse_dtype(dtype)}},
                  pool_of(*open),
                  default_memory(),
                  comm::Algorithm::automatic,
                  &open->lanes} {}

  bool run(std::uintptr_t address, std::int64_t numel, const std::string& dtype) {
    const auto verdict = allreduce.run(view_at(address, numel, dtype, Device::host));
    allreduce.end_step(true);
    return verdict.finite();
  }

  Open open;
  comm::CompressedAllreduce allreduce;
};

struct TensorReduceScatter {
  TensorReduceScatter(const std::shared_ptr<CommunicatorBox>& box, const std::string& name,
                      const std::vector<std::int64_t>& boundaries, const std::string& dtype,
                      const std::string& codec)
      : open{box->share()},
        reduce_scatter{*open->own,
                       compress::Plan{{parse_codec(codec)},
                                      whole(name, boundaries.back()),
                                      {.ranks = open->own->size(),
                                       .operation = compress::Operation::reduce_scatter,
                                       .dtype = parse_dtype(dtype),
                                       .boundaries = boundaries}},
                       pool_of(*open), default_memory(), &open->lanes} {}

  bool run(std::uintptr_t in, std::int64_t numel, std::uintptr_t out, std::int64_t out_numel,
           const std::string& dtype) {
    const auto verdict = reduce_scatter.run(view_at(in, numel, dtype, Device::host),
                                            view_at(out, out_numel, dtype, Device::host));
    reduce_scatter.end_step(true);
    return verdict.finite();
  }

  Open open;
  comm::CompressedReduceScatter reduce_scatter;
};

struct TensorAllGather {
  TensorAllGather(const std::shared_ptr<CommunicatorBox>& box,
                  const std::vector<std::int64_t>& boundaries, const std::string& dtype,
                  const std::string& codec)
      : open{box->share()},
        all_gather{*open->own,         parse_codec(codec), whole("tensor", boundaries.back()),
                   parse_dtype(dtype), boundaries,         pool_of(*open),
                   default_memory(),   &open->lanes} {}

  bool run(std::uintptr_t in, std::int64_t in_numel, std::uintptr_t out, std::int64_t numel,
           const std::string& dtype) {
    return all_gather
        .run(view_at(in, in_numel, dtype, Device::host), view_at(out, numel, dtype, Device::host))
        .finite();
  }

  Open open;
  comm::CompressedAllGather all_gather;
};

}  // namespace

void register_collectives(py::module_& module) {
  using Box = std::shared_ptr<CommunicatorBox>;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  using Boundaries = std::vector<std::int64_t>;
  py::class_<TensorAllreduce, std::unique_ptr<TensorAllreduce, DeleteWithoutGil>>(module,
                                                                                  "Allreduce")
      .def(py::init<Box, std::string, std::int64_t, std::string, std::string>(),
           py::arg("communicator"), py::arg("name"), py::arg("numel"), py::arg("dtype"),
           py::arg("codec"), NoGil{})
      .def("run", &TensorAllreduce::run, py::arg("address"), py::arg("numel"), py::arg("dtype"),
           NoGil{});
  py::class_<TensorReduceScatter, std::unique_ptr<TensorReduceScatter, DeleteWithoutGil>>(
      module, "ReduceScatter")
      .def(py::init<Box, std::string, Boundaries, std::string, std::string>(),
           py::arg("communicator"), py::arg("name"), py::arg("boundaries"), py::arg("dtype"),
           py::arg("codec"), NoGil{})
      .def("run", &TensorReduceScatter::run, py::arg("source"), py::arg("numel"), py::arg("out"),
           py::arg("out_numel"), py::arg("dtype"), NoGil{});
  py::class_<TensorAllGather, std::unique_ptr<TensorAllGather, DeleteWithoutGil>>(module,
                                                                                  "AllGather")
      .def(py::init<Box, Boundaries, std::string, std::string>(), py::arg("communicator"),
           py::arg("boundaries"), py::arg("dtype"), py::arg("codec"), NoGil{})
      .def("run", &TensorAllGather::run, py::arg("source"), py::arg("source_numel"), py::arg("out"),
           py::arg("numel"), py::arg("dtype"), NoGil{});
}

}  // namespace thinwire::python
