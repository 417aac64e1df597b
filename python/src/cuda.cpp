#include <pybind11/stl.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "engine_fields.hpp"
#include "launch_thread.hpp"
#include "register.hpp"
#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/cuda_sharded.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/core/cuda/stream.hpp"

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

/// CudaEngine, driven by a thread of its own. What callers hand over is ordered by events that they
/// record on their streams; what they wait for, by events of the engine's.
class PythonCudaEngine : public OnGpu {
 public:
  PythonCudaEngine(std::shared_ptr<CommunicatorBox> box, const std::string& commit,
                   const std::string& non_finite, int chunks)
      : OnGpu{std::move(box)} {
    const comm::CudaEngineOptions options{.commit = parse_commit(commit),
                                          .non_finite = parse_non_finite(non_finite),
                                          .chunks = chunks};
    thread_ = std::make_unique<LaunchThread>();
    call([&] {
      stream_ = std::make_unique<CudaStream>();
      engine_ = std::make_unique<comm::CudaEngine>(communicator(), comm::BucketLayout{}, options);
    });
  }
  ~PythonCudaEngine() { close(); }

  std::size_t add_bucket(const std::string& dtype, std::int64_t elements,
                         const std::vector<std::string>& codecs,
                         const std::vector<SpanFields>& spans) {
    return call([&] { return engine_->add_bucket(bucket_of(dtype, elements, codecs, spans)); });
  }

  /// Does not wait for the thread; what goes wrong is thrown by the next call that does.
  void submit(std::size_t bucket, std::uintptr_t address, std::int64_t numel,
              const std::string& dtype, std::uintptr_t stream, std::uintptr_t inv_scale,
              std::uintptr_t out_scale) {
    const CudaEvent& ready = mark(ready_[bucket], stream_at(stream));
    const TensorView gradients = view(address, numel, dtype);
    thread().post([=, this, &ready] {
      const auto on = guard();
      ready.wait(*stream_);
      engine_->submit(bucket, gradients, *stream_, scalar_at(inv_scale), scalar_at(out_scale));
    });
  }

  /// What went wrong so far is thrown, also when there are no buckets to wait for.
  void wait(const std::vector<std::size_t>& buckets, std::uintptr_t stream) {
    call([&] {
      engine_->poll();
      for (const std::size_t bucket : buckets) engine_->wait(bucket, stream_at(stream));
    });
  }

  /// How many steps turn out not to have been committed, of those that the GPU is past by now.
  std::size_t end_step(std::uintptr_t stream, std::uintptr_t found_inf) {
    const CudaEvent& before = mark(before_, stream_at(stream));
    return call([&] {
      before.wait(*stream_);
      unreported_.push_back(engine_->end_step(*stream_, scalar_at(found_inf)));
      mark(ended_, *stream_).wait(stream_at(stream));
      return count_skipped();
    });
  }

  /// The same of all steps.
  std::size_t synchronize() {
    return call([&] {
      engine_->synchronize();
      return count_skipped();
    });
  }
  std::uintptr_t exchange_stream() {
    return call(
        [&] { return reinterpret_cast<std::uintptr_t>(engine_->exchange_stream().handle()); });
  }
  const compress::Plan& plan(std::size_t bucket) {
    return *call([&] { return &engine_->plan(bucket); });
  }
  int rank() const { return communicator().rank(); }
  comm::CallMetrics metrics() {
    return call([&] { return engine_->metrics(); });
  }
  comm::CallMetrics bucket_metrics(std::size_t bucket) {
    return call([&] { return engine_->metrics(bucket); });
  }

  std::vector<Residual> export_worker() {
    return call([&] { return engine_->export_worker(); });
  }
  std::vector<Residual> export_server() {
    return call([&] { return engine_->export_server(); });
  }
  void restore(const std::vector<ResidualFields>& worker,
               const std::vector<ResidualFields>& server) {
    call([&] { engine_->restore(take_residuals(worker), take_residuals(server)); });
  }

  /// From any thread.
  void abort(const std::string& reason) {
    thread();
    engine_->abort(reason);
  }

  void close() {
    if (!thread_) return;
    thread_->finish([this] {
      const auto on = guard();
      engine_.reset();
      stream_.reset();
      ready_.clear();
      before_.reset();
      ended_.reset();
    });
    thread_.reset();
  }

 private:
  LaunchThread& thread() const {
    if (!thread_) throw AbortedError{"this engine has been closed"};
    return *thread_;
  }

  template <typename Call>
  std::invoke_result_t<Call> call(Call&& body) {
    return thread().wait([&] {
      const auto on = guard();
      return body();
    });
  }

  /// Records what `stream` holds now, in an event that is made at its first use.
  const CudaEvent& mark(std::optional<CudaEvent>& event, StreamView stream) const {
    const auto on = guard();
    if (!event) event.emplace();
    event->record(stream);
    return *event;
  }

  std::size_t count_skipped() {
    std::size_t skipped = 0;
    for (; !unreported_.empty(); unreported_.pop_front()) {
      const auto report = engine_->report(unreported_.front());
      if (!report && unreported_.size() <= kept_reports) break;
      if (report && report->skipped) ++skipped;
    }
    return skipped;
  }

  static constexpr std::size_t kept_reports = 8;           // the engine forgets older ones
  std::deque<std::uint64_t> unreported_;                   // steps that the GPU may not be past
  std::map<std::size_t, std::optional<CudaEvent>> ready_;  // by bucket
  std::optional<CudaEvent> before_, ended_;                // of a step's end
  std::unique_ptr<CudaStream> stream_;  // of the thread: it stands in for the callers'
  std::unique_ptr<comm::CudaEngine> engine_;
  std::unique_ptr<LaunchThread> thread_;
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

template <typename Call>
auto without_gil(Call&& call) {
  const py::gil_scoped_release release;
  return call();
}

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
        const auto parent = bootstrap->share();
        return box(comm::make_nccl_communicator(*parent->own), parent, device);
      },
      py::arg("bootstrap"), py::arg("device"), NoGil{});
  module.def("nccl_available", [] {
    std::string why;
    const bool available = comm::nccl_available(&why);
    return py::make_tuple(available, why);
  });

  // Python's objects are made when the GIL is held again.
  using Engine = PythonCudaEngine;
  py::class_<Engine, Owned<Engine>>(module, "CudaEngine")
      .def(py::init<Box, std::string, std::string, int>(), py::arg("communicator"),
           py::arg("commit"), py::arg("non_finite"), py::arg("chunks"), NoGil{})
      .def("add_bucket", &Engine::add_bucket, py::arg("dtype"), py::arg("elements"),
           py::arg("codecs"), py::arg("spans"), NoGil{})
      .def("submit", &Engine::submit, py::arg("bucket"), py::arg("address"), py::arg("numel"),
           py::arg("dtype"), py::arg("stream"), py::arg("inv_scale"), py::arg("out_scale"), NoGil{})
      .def("wait", &Engine::wait, py::arg("buckets"), py::arg("stream"), NoGil{})
      .def("end_step", &Engine::end_step, py::arg("stream"), py::arg("found_inf"), NoGil{})
      .def("synchronize", &Engine::synchronize, NoGil{})
      .def("exchange_stream", &Engine::exchange_stream, NoGil{})
      .def(
          "plan",
          [](Engine& engine, std::size_t bucket) {
            const auto& plan = without_gil([&] { return std::ref(engine.plan(bucket)); }).get();
            return plan_fields(plan, engine.rank());
          },
          py::arg("bucket"))
      .def("metrics",
           [](Engine& engine) {
             return metrics_fields(without_gil([&] { return engine.metrics(); }));
           })
      .def(
          "bucket_metrics",
          [](Engine& engine, std::size_t bucket) {
            return metrics_fields(without_gil([&] { return engine.bucket_metrics(bucket); }));
          },
          py::arg("bucket"))
      .def("export_worker",
           [](Engine& engine) {
             return give_residuals(without_gil([&] { return engine.export_worker(); }));
           })
      .def("export_server",
           [](Engine& engine) {
             return give_residuals(without_gil([&] { return engine.export_server(); }));
           })
      .def("restore", &Engine::restore, py::arg("worker"), py::arg("server"), NoGil{})
      .def("abort", &Engine::abort, py::arg("reason"), NoGil{})
      .def("close", &Engine::close, NoGil{});
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
