#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "engine_fields.hpp"
#include "register.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/cuda_sharded.hpp"
#include "thinwire/comm/nccl.hpp"

/// Tensors on GPUs. Addresses of streams and of device scalars come as numbers; 0 is none.
namespace thinwire::python {
namespace {

using compress::parse_codec;

const float* scalar_at(std::uintptr_t address) { return reinterpret_cast<const float*>(address); }

/// What stands on one GPU, with the communicator that it uses.
class OnGpu {
 public:
  explicit OnGpu(std::shared_ptr<CommunicatorBox> box) : box_{std::move(box)} {}

 protected:
  comm::Communicator& communicator() const { return box_->get(); }
  OnDevice guard() const { return OnDevice{box_->device}; }
  static TensorView view(std::uintptr_t address, std::int64_t numel, const std::string& dtype) {
    return view_at(address, numel, dtype, Device::cuda);
  }

 private:
  std::shared_ptr<CommunicatorBox> box_;
};

class PythonCudaEngine : public OnGpu {
 public:
  PythonCudaEngine(std::shared_ptr<CommunicatorBox> box, const std::string& commit,
                   const std::string& non_finite, int chunks)
      : OnGpu{std::move(box)} {
    const auto on = guard();
    engine_ = std::make_unique<comm::CudaEngine>(
        communicator(), comm::BucketLayout{},
        comm::CudaEngineOptions{.commit = parse_commit(commit),
                                .non_finite = parse_non_finite(non_finite),
                                .chunks = chunks});
  }
  ~PythonCudaEngine() { close(); }

  std::size_t add_bucket(const std::string& dtype, std::int64_t elements,
                         const std::vector<std::string>& codecs,
                         const std::vector<SpanFields>& spans) {
    const auto on = guard();
    return get().add_bucket(bucket_of(dtype, elements, codecs, spans));
  }

  void submit(std::size_t bucket, std::uintptr_t address, std::int64_t numel,
              const std::string& dtype, std::uintptr_t stream, std::uintptr_t inv_scale,
              std::uintptr_t out_scale) {
    const auto on = guard();
    get().submit(bucket, view(address, numel, dtype), stream_at(stream), scalar_at(inv_scale),
                 scalar_at(out_scale));
  }

  void wait(std::size_t bucket, std::uintptr_t stream) {
    const auto on = guard();
    get().wait(bucket, stream_at(stream));
  }

  std::uint64_t end_step(std::uintptr_t stream, std::uintptr_t found_inf) {
    const auto on = guard();
    return get().end_step(stream_at(stream), scalar_at(found_inf));
  }

  /// None while the GPU is not past the step, or when it is too old.
  std::optional<bool> skipped(std::uint64_t step) {
    const auto report = get().report(step);
    if (!report) return std::nullopt;
    return report->skipped;
  }

  void poll() { get().poll(); }

  void synchronize() {
    const auto on = guard();
    get().synchronize();
  }

  std::uintptr_t exchange_stream() {
    return reinterpret_cast<std::uintptr_t>(get().exchange_stream().handle());
  }

  py::dict plan(std::size_t bucket) {
    return plan_fields(get().plan(bucket), communicator().rank());
  }
  py::dict metrics() { return metrics_fields(get().metrics()); }

  py::list export_worker() {
    const auto on = guard();
    return give_residuals(get().export_worker());
  }
  py::list export_server() {
    const auto on = guard();
    return give_residuals(get().export_server());
  }
  void restore(const std::vector<ResidualFields>& worker,
               const std::vector<ResidualFields>& server) {
    const auto on = guard();
    get().restore(take_residuals(worker), take_residuals(server));
  }

  void abort(const std::string& reason) { get().abort(reason); }
  void close() {
    if (!engine_) return;
    const auto on = guard();
    engine_.reset();
  }

 private:
  comm::CudaEngine& get() const {
    if (!engine_) throw AbortedError{"this engine has been closed"};
    return *engine_;
  }

  std::unique_ptr<comm::CudaEngine> engine_;
};

/// One tensor's compressed allreduce, kept between calls for its residual.
class CudaAllreduce : public OnGpu {
 public:
  CudaAllreduce(std::shared_ptr<CommunicatorBox> box, const std::string& name, std::int64_t numel,
                const std::string& dtype, const std::string& codec)
      : OnGpu{std::move(box)} {
    const auto on = guard();
    comm::BucketLayout layout;
    layout.buckets.push_back({parse_dtype(dtype), numel, {parse_codec(codec)}, whole(name, numel)});
    engine_ = std::make_unique<comm::CudaEngine>(communicator(), std::move(layout));
  }
  ~CudaAllreduce() {
    const auto on = guard();
    engine_.reset();
  }

  void run(std::uintptr_t address, std::int64_t numel, const std::string& dtype,
           std::uintptr_t stream) {
    const auto on = guard();
    engine_->submit(0, view(address, numel, dtype), stream_at(stream));
    engine_->end_step(stream_at(stream));
  }

 private:
  std::unique_ptr<comm::CudaEngine> engine_;
};

class CudaReduceScatter : public OnGpu {
 public:
  CudaReduceScatter(std::shared_ptr<CommunicatorBox> box, const std::string& name,
                    const std::vector<std::int64_t>& boundaries, const std::string& dtype,
                    const std::string& codec)
      : OnGpu{std::move(box)} {
    const auto on = guard();
    const compress::PlanSettings settings{.ranks = communicator().size(),
                                          .operation = compress::Operation::reduce_scatter,
                                          .dtype = parse_dtype(dtype),
                                          .boundaries = boundaries};
    reduce_scatter_ = std::make_unique<comm::CudaReduceScatter>(
        communicator(),
        compress::Plan{{parse_codec(codec)}, whole(name, boundaries.back()), settings});
  }
  ~CudaReduceScatter() {
    const auto on = guard();
    reduce_scatter_.reset();
  }

  void run(std::uintptr_t in, std::int64_t numel, std::uintptr_t out, std::int64_t out_numel,
           const std::string& dtype, std::uintptr_t stream) {
    const auto on = guard();
    reduce_scatter_->run(view(in, numel, dtype), view(out, out_numel, dtype), stream_at(stream));
    reduce_scatter_->end_step(stream_at(stream));
  }

 private:
  std::unique_ptr<comm::CudaReduceScatter> reduce_scatter_;
};

class CudaAllGather : public OnGpu {
 public:
  CudaAllGather(std::shared_ptr<CommunicatorBox> box, const std::vector<std::int64_t>& boundaries,
                const std::string& dtype, const std::string& codec)
      : OnGpu{std::move(box)} {
    const auto on = guard();
    all_gather_ = std::make_unique<comm::CudaAllGather>(communicator(), parse_codec(codec),
                                                        whole("tensor", boundaries.back()),
                                                        parse_dtype(dtype), boundaries);
  }
  ~CudaAllGather() {
    const auto on = guard();
    all_gather_.reset();
  }

  void run(std::uintptr_t in, std::int64_t in_numel, std::uintptr_t out, std::int64_t numel,
           const std::string& dtype, std::uintptr_t stream) {
    const auto on = guard();
    all_gather_->run(view(in, in_numel, dtype), view(out, numel, dtype), stream_at(stream));
  }

 private:
  std::unique_ptr<comm::CudaAllGather> all_gather_;
};

template <typename T>
using Owned = std::unique_ptr<T, DeleteWithoutGil>;

}  // namespace

void register_cuda(py::module_& module) {
  using Box = std::shared_ptr<CommunicatorBox>;
  using NoGil = py::call_guard<py::gil_scoped_release>;
  using Boundaries = std::vector<std::int64_t>;

  module.def(
      "nccl_communicator",
      [](Box bootstrap, int device) {
        const OnDevice on{device};
        return box(comm::make_nccl_communicator(bootstrap->get()), bootstrap, device);
      },
      py::arg("bootstrap"), py::arg("device"), NoGil{});
  module.def("nccl_available", [] {
    std::string why;
    const bool available = comm::nccl_available(&why);
    return py::make_tuple(available, why);
  });

  py::class_<PythonCudaEngine, Owned<PythonCudaEngine>>(module, "CudaEngine")
      .def(py::init<Box, std::string, std::string, int>(), py::arg("communicator"),
           py::arg("commit"), py::arg("non_finite"), py::arg("chunks"), NoGil{})
      .def("add_bucket", &PythonCudaEngine::add_bucket, py::arg("dtype"), py::arg("elements"),
           py::arg("codecs"), py::arg("spans"), NoGil{})
      .def("submit", &PythonCudaEngine::submit, py::arg("bucket"), py::arg("address"),
           py::arg("numel"), py::arg("dtype"), py::arg("stream"), py::arg("inv_scale"),
           py::arg("out_scale"), NoGil{})
      .def("wait", &PythonCudaEngine::wait, py::arg("bucket"), py::arg("stream"), NoGil{})
      .def("end_step", &PythonCudaEngine::end_step, py::arg("stream"), py::arg("found_inf"),
           NoGil{})
      .def("skipped", &PythonCudaEngine::skipped, py::arg("step"))
      .def("poll", &PythonCudaEngine::poll, NoGil{})
      .def("synchronize", &PythonCudaEngine::synchronize, NoGil{})
      .def("exchange_stream", &PythonCudaEngine::exchange_stream)
      .def("plan", &PythonCudaEngine::plan, py::arg("bucket"))
      .def("metrics", &PythonCudaEngine::metrics)
      .def("export_worker", &PythonCudaEngine::export_worker)
      .def("export_server", &PythonCudaEngine::export_server)
      .def("restore", &PythonCudaEngine::restore, py::arg("worker"), py::arg("server"), NoGil{})
      .def("abort", &PythonCudaEngine::abort, py::arg("reason"), NoGil{})
      .def("close", &PythonCudaEngine::close, NoGil{});
  py::class_<CudaAllreduce, Owned<CudaAllreduce>>(module, "CudaAllreduce")
      .def(py::init<Box, std::string, std::int64_t, std::string, std::string>(),
           py::arg("communicator"), py::arg("name"), py::arg("numel"), py::arg("dtype"),
           py::arg("codec"), NoGil{})
      .def("run", &CudaAllreduce::run, py::arg("address"), py::arg("numel"), py::arg("dtype"),
           py::arg("stream"), NoGil{});
  py::class_<CudaReduceScatter, Owned<CudaReduceScatter>>(module, "CudaReduceScatter")
      .def(py::init<Box, std::string, Boundaries, std::string, std::string>(),
           py::arg("communicator"), py::arg("name"), py::arg("boundaries"), py::arg("dtype"),
           py::arg("codec"), NoGil{})
      .def("run", &CudaReduceScatter::run, py::arg("source"), py::arg("numel"), py::arg("out"),
           py::arg("out_numel"), py::arg("dtype"), py::arg("stream"), NoGil{});
  py::class_<CudaAllGather, Owned<CudaAllGather>>(module, "CudaAllGather")
      .def(py::init<Box, Boundaries, std::string, std::string>(), py::arg("communicator"),
           py::arg("boundaries"), py::arg("dtype"), py::arg("codec"), NoGil{})
      .def("run", &CudaAllGather::run, py::arg("source"), py::arg("source_numel"), py::arg("out"),
           py::arg("numel"), py::arg("dtype"), py::arg("stream"), NoGil{});
}

}  // namespace thinwire::python
