#include "register.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::python {
namespace {

namespace py = pybind11;

/// An instance of the exception of the same name in thinwire.errors.
py::object make(const char* type, const std::exception& error) {
  return py::module_::import("thinwire.errors").attr(type)(error.what());
}

void raise(const py::object& exception) {
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
}

void raise_transport(const char* type, const TransportError& error) {
  const auto exception = make(type, error);
  exception.attr("peer") = error.peer;
  raise(exception);
}

}  // namespace

void register_errors() {
  py::register_exception_translator([](std::exception_ptr pointer) {
    if (!pointer) return;
    try {  // derived types first
      std::rethrow_exception(pointer);
    } catch (const MismatchError& error) {
      const auto exception = make("MismatchError", error);
      exception.attr("field") = error.field;
      exception.attr("mine") = error.mine;
      exception.attr("theirs") = error.theirs;
      exception.attr("peer") = error.peer;
      raise(exception);
    } catch (const TimeoutError& error) {
      raise_transport("TimeoutError", error);
    } catch (const AbortedError& error) {
      raise_transport("AbortedError", error);
    } catch (const TransportError& error) {
      raise_transport("TransportError", error);
    } catch (const InvalidArgument& error) {
      raise(make("InvalidArgument", error));
    } catch (const OutOfMemory& error) {
      raise(make("OutOfMemory", error));
    } catch (const FormatError& error) {
      raise(make("FormatError", error));
    } catch (const IoError& error) {
      raise(make("IoError", error));
    } catch (const NonFiniteError& error) {
      raise(make("NonFiniteError", error));
    } catch (const Error& error) {
      raise(make("Error", error));
    }
  });
}

}  // namespace thinwire::python
