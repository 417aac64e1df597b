#include "nccl_functions.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

constexpr const char* soname = "libnccl.so.2";

struct Resolver {
  void* (*resolve)(void*, const char*);
  void* library;

  template <typename Function>
  void optional(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(resolve(library, name));
  }

  template <typename Function>
  void required(Function& function, const char* name) const {
    optional(function, name);
    THINWIRE_EXPECTS(function != nullptr, TransportError,
                     fmt::format("this libnccl has no {}; thinwire needs NCCL {} or later", name,
                                 nccl_version_text(oldest_nccl)));
  }
};

}  // namespace

std::string nccl_version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

NcclFunctions resolve_nccl(void* (*resolve)(void* library, const char* name), void* library) {
  const Resolver from{resolve, library};
  NcclFunctions nccl;
  from.required(nccl.get_version, "ncclGetVersion");
  int version = 0;
  nccl.get_version(&version);
  THINWIRE_EXPECTS(version >= oldest_nccl, TransportError,
                   fmt::format("NCCL {} is too old; thinwire needs {} or later. Name another "
                               "libnccl.so.2 by THINWIRE_NCCL",
                               nccl_version_text(version), nccl_version_text(oldest_nccl)));
  from.required(nccl.get_unique_id, "ncclGetUniqueId");
  from.required(nccl.get_error_string, "ncclGetErrorString");
  from.required(nccl.comm_init_rank_config, "ncclCommInitRankConfig");
  from.required(nccl.comm_finalize, "ncclCommFinalize");
  from.required(nccl.comm_destroy, "ncclCommDestroy");
  from.required(nccl.comm_abort, "ncclCommAbort");
  from.required(nccl.comm_get_async_error, "ncclCommGetAsyncError");
  from.required(nccl.all_reduce, "ncclAllReduce");
  from.required(nccl.reduce_scatter, "ncclReduceScatter");
  from.required(nccl.all_gather, "ncclAllGather");
  from.required(nccl.broadcast, "ncclBroadcast");
  from.required(nccl.send, "ncclSend");
  from.required(nccl.recv, "ncclRecv");
  from.required(nccl.group_start, "ncclGroupStart");
  from.required(nccl.group_end, "ncclGroupEnd");
  from.optional(nccl.comm_split, "ncclCommSplit");
  from.optional(nccl.get_last_error, "ncclGetLastError");
  return nccl;
}

NcclFunctions load_nccl(const std::string& path) {
  // A second copy would have its own thread-local group state and its own connections.
  void* library = dlopen(soname, RTLD_NOW | RTLD_NOLOAD);
  const char* name = path.empty() ? soname : path.c_str();
  if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw TransportError{
        fmt::format("NCCL cannot be loaded: {}; install NCCL {} or later, or name "
                    "its libnccl.so.2 by THINWIRE_NCCL",
                    reason != nullptr ? reason : name, nccl_version_text(oldest_nccl))};
  }
  const NcclFunctions nccl = resolve_nccl(&dlsym, library);
  int version = 0;
  nccl.get_version(&version);
  log(LogLevel::debug, fmt::format("NCCL {}", nccl_version_text(version)));
  return nccl;
}

const NcclFunctions& nccl_functions() {
  static const NcclFunctions table = load_nccl(config().nccl);
  return table;
}

}  // namespace thinwire::comm
