#pragma once

#include <nccl.h>

#include <string>

namespace thinwire::comm {

/// NCCL as one table of functions, resolved at run time; tests make their own.
struct NcclFunctions {
  decltype(&::ncclGetVersion) get_version = nullptr;
  decltype(&::ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&::ncclGetErrorString) get_error_string = nullptr;
  decltype(&::ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&::ncclCommFinalize) comm_finalize = nullptr;
  decltype(&::ncclCommDestroy) comm_destroy = nullptr;
  decltype(&::ncclCommAbort) comm_abort = nullptr;
  decltype(&::ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&::ncclAllReduce) all_reduce = nullptr;
  decltype(&::ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&::ncclAllGather) all_gather = nullptr;
  decltype(&::ncclBroadcast) broadcast = nullptr;
  decltype(&::ncclSend) send = nullptr;
  decltype(&::ncclRecv) recv = nullptr;
  decltype(&::ncclGroupStart) group_start = nullptr;
  decltype(&::ncclGroupEnd) group_end = nullptr;
  // Null where this NCCL has none.
  decltype(&::ncclCommSplit) comm_split = nullptr;
  decltype(&::ncclGetLastError) get_last_error = nullptr;
};

constexpr int oldest_nccl = NCCL_VERSION(2, 18, 0);

/// "2.28.9" of 22809.
std::string nccl_version_text(int version);

/// Fills a table from a library: `resolve` is dlsym or a test's. Throws TransportError naming the
/// function that is missing, or both versions when the library is older than oldest_nccl.
NcclFunctions resolve_nccl(void* (*resolve)(void* library, const char* name), void* library);

/// The process's NCCL: the copy that is already loaded, else the file `path` if that is not empty,
/// else libnccl.so.2; stays loaded. Throws TransportError saying what was tried and the way out.
NcclFunctions load_nccl(const std::string& path);

/// load_nccl with THINWIRE_NCCL, once.
const NcclFunctions& nccl_functions();

}  // namespace thinwire::comm
