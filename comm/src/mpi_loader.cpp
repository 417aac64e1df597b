#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

#include "mpi_module.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/version.hpp"

namespace thinwire::comm {
namespace {

std::filesystem::path module_path() {
  if (!config().mpi_module.empty()) return config().mpi_module;
  Dl_info here{};
  dladdr(reinterpret_cast<const void*>(&mpi_available), &here);
  const std::filesystem::path library{here.dli_fname == nullptr ? "" : here.dli_fname};
  return library.parent_path() / "libthinwire_mpi.so";
}

/// Throws TransportError if there is no module that fits. The module is never closed: MPI does not
/// survive that.
const MpiModule& load_module() {
  const auto path = module_path().string();
  // Global, because Open MPI opens plug-ins that look for its symbols.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    throw TransportError{
        fmt::format("the MPI transport cannot be loaded: {}. Build thinwire where MPI is found "
                    "(Debian: libopenmpi-dev; cmake -DTHINWIRE_WITH_MPI=ON), or for an installed "
                    "package run 'python -m thinwire.build_mpi', or set THINWIRE_MPI_MODULE to the "
                    "path of libthinwire_mpi.so",
                    dlerror())};
  }
  const auto entry =
      reinterpret_cast<decltype(&thinwire_mpi_module)>(dlsym(library, thinwire_mpi_module_symbol));
  THINWIRE_EXPECTS(entry != nullptr, TransportError,
                   fmt::format("{} is not thinwire's MPI module: it has no {}", path,
                               thinwire_mpi_module_symbol));
  const MpiModule& module = *entry();
  THINWIRE_EXPECTS(
      module.abi == mpi_module_abi, TransportError,
      fmt::format("{} has module ABI {}, this libthinwire.so needs {}; install both from one build",
                  path, module.abi, mpi_module_abi));
  THINWIRE_EXPECTS(
      std::string_view{module.version} == THINWIRE_VERSION, TransportError,
      fmt::format("{} is of thinwire {}, this libthinwire.so of {}; install both from one build",
                  path, module.version, THINWIRE_VERSION));
  return module;
}

const MpiModule& module() {
  static const MpiModule& instance = load_module();  // tried again after a failure
  return instance;
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options) {
  return module().make(options);
}

std::unique_ptr<MpiBaseline> make_mpi_baseline(MpiAllreduce algorithm) {
  return module().make_baseline(algorithm);
}

bool mpi_available(std::string* why) {
  try {
    module();
    return true;
  } catch (const TransportError& error) {
    if (why != nullptr) *why = error.what();
    return false;
  }
}

}  // namespace thinwire::comm
