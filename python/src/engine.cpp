#include "thinwire/comm/engine.hpp"

#include <array>
#include <chrono>
#include <deque>
#include <vector>

#include "engine_fields.hpp"
#include "register.hpp"

namespace thinwire::python {
namespace {

/// (bucket, chunk or -1, name, begin, end)
using SpanTimes = std::tuple<std::size_t, int, std::string, double, double>;

double microseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration<double, std::micro>(time.time_since_epoch()).count();
}

/// Engine with what its submissions point to.
class PythonEngine {
 public:
  PythonEngine(std::shared_ptr<CommunicatorBox> box, const std::string& commit,
               const std::string& non_finite, int chunks, int threads)
      : box_{std::move(box)},
        engine_{new comm::Engine{box_->get(),
                                 {},
                                 {.commit = parse_commit(commit),
                                  .non_finite = parse_non_finite(non_finite),
                                  .chunks = chunks,
                                  .threads = threads}}} {}

  std::size_t add_bucket(const std::string& dtype, std::int64_t elements,
                         const std::vector<std::string>& codecs,
                         const std::vector<SpanFields>& spans) {
    return get().add_bucket(bucket_of(dtype, elements, codecs, spans));
  }

  /// `done` is called with the GIL on the engine's thread.
  void submit(std::size_t bucket, std::uintptr_t address, std::int64_t numel,
              const std::string& dtype, float inv_scale, float out_scale, py::function done) {
    const std::shared_ptr<py::function> callback{new py::function{std::move(done)},
                                                 [](py::function* function) {
                                                   const py::gil_scoped_acquire gil;
                                                   delete function;
                                                 }};
    const py::gil_scoped_release release;
    if (scales_.size() <= bucket) scales_.resize(bucket + 1);
    scales_[bucket] = {inv_scale, out_scale};
    get().submit(bucket, view_at(address, numel, dtype, Device::host),
                 inv_scale == 1.0f ? nullptr : &scales_[bucket][0],
                 out_scale == 1.0f ? nullptr : &scales_[bucket][1], [callback] {
                   const py::gil_scoped_acquire gil;
                   try {
                     (*callback)();
                   } catch (py::error_already_set& error) {
                     error.discard_as_unraisable("thinwire's engine");
                   }
                 });
  }

  void wait(std::size_t bucket) { get().wait(bucket); }

  std::pair<bool, bool> end_step(bool found_inf) {
    const comm::StepReport report = get().end_step(found_inf);
    return {report.committed, report.finite};
  }

  py::dict plan(std::size_t bucket) { return plan_fields(get().plan(bucket), box_->get().rank()); }
  py::dict metrics() { return metrics_fields(get().metrics()); }
  py::dict bucket_metrics(std::size_t bucket) { return metrics_fields(get().metrics(bucket)); }

  void start_trace() { get().start_trace(); }
  std::vector<SpanTimes> stop_trace() {
    std::vector<SpanTimes> spans;
    for (const comm::TraceSpan& span : get().stop_trace()) {
      spans.emplace_back(span.bucket, span.chunk, std::string{span.name}, microseconds(span.begin),
                         microseconds(span.end));
    }
    return spans;
  }

  py::list export_worker() { return give_residuals(get().export_worker()); }
  py::list export_server() { return give_residuals(get().export_server()); }

  void restore(const std::vector<ResidualFields>& worker,
               const std::vector<ResidualFields>& server) {
    get().restore(take_residuals(worker), take_residuals(server));
  }

  void abort(const std::string& reason) { get().abort(reason); }
  void close() { engine_.reset(); }

 private:
  comm::Engine& get() const {
    if (!engine_) throw AbortedError{"this engine has been closed"};
    return *engine_;
  }

  std::shared_ptr<CommunicatorBox> box_;
  std::deque<std::array<float, 2>> scales_;  // by bucket: inverse, out; a deque: they stay in place
  std::unique_ptr<comm::Engine> engine_;
};

}  // namespace

void register_engine(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<Floats>(module, "Floats", py::buffer_protocol()).def_buffer([](Floats& floats) {
    return py::buffer_info{floats.values.data(), static_cast<py::ssize_t>(floats.values.size())};
  });
  py::class_<PythonEngine, std::unique_ptr<PythonEngine, DeleteWithoutGil>>(module, "Engine")
      .def(py::init<std::shared_ptr<CommunicatorBox>, std::string, std::string, int, int>(),
           py::arg("communicator"), py::arg("commit"), py::arg("non_finite"), py::arg("chunks"),
           py::arg("threads"), NoGil{})
      .def("add_bucket", &PythonEngine::add_bucket, py::arg("dtype"), py::arg("elements"),
           py::arg("codecs"), py::arg("spans"), NoGil{})
      .def("submit", &PythonEngine::submit, py::arg("bucket"), py::arg("address"), py::arg("numel"),
           py::arg("dtype"), py::arg("inv_scale"), py::arg("out_scale"), py::arg("done"))
      .def("wait", &PythonEngine::wait, py::arg("bucket"), NoGil{})
      .def("end_step", &PythonEngine::end_step, py::arg("found_inf"), NoGil{})
      .def("plan", &PythonEngine::plan, py::arg("bucket"))
      .def("metrics", &PythonEngine::metrics)
      .def("bucket_metrics", &PythonEngine::bucket_metrics, py::arg("bucket"))
      .def("start_trace", &PythonEngine::start_trace)
      .def("stop_trace", &PythonEngine::stop_trace)
      .def("export_worker", &PythonEngine::export_worker)
      .def("export_server", &PythonEngine::export_server)
      .def("restore", &PythonEngine::restore, py::arg("worker"), py::arg("server"), NoGil{})
      .def("abort", &PythonEngine::abort, py::arg("reason"), NoGil{})
      .def("close", &PythonEngine::close, NoGil{});
}

}  // namespace thinwire::python
