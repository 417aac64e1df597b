#include "fake_nccl.hpp"

#include <cstring>
#include <string>
#include <thread>

using thinwire::comm::FakeGpus;

struct ncclComm {
  int rank;
  int polls;
};
struct CUevent_st {
  int rank = 0;
};
struct CUstream_st {
  int rank = 0;
};

namespace thinwire::comm {
namespace {

FakeGpus* the_gpus = nullptr;

FakeGpus::Rank& rank_of(int rank) { return the_gpus->rank(rank); }

ncclResult_t make(ncclComm_t* comm, int rank) {
  auto& mine = rank_of(rank);
  const ncclResult_t result = mine.init_result;
  *comm = new ncclComm{rank, mine.polls_until_ready};
  ++the_gpus->open_communicators_;
  if (result == ncclInProgress) mine.starting = true;
  return result;
}

ncclResult_t end(ncclComm_t comm, std::atomic<int> FakeGpus::Rank::*counter) {
  ++(rank_of(comm->rank).*counter);
  --the_gpus->open_communicators_;
  delete comm;
  return ncclSuccess;
}

ncclResult_t move(ncclComm_t comm) {
  ++rank_of(comm->rank).operations;
  return rank_of(comm->rank).call_result;
}

}  // namespace

thread_local int FakeGpus::me = 0;

FakeGpus::FakeGpus() { the_gpus = this; }
FakeGpus::~FakeGpus() { the_gpus = nullptr; }

NcclFunctions FakeGpus::nccl() const {
  NcclFunctions table;
  table.get_version = [](int* version) {
    *version = rank_of(me).version;
    return ncclSuccess;
  };
  table.get_unique_id = [](ncclUniqueId* id) {
    ++rank_of(me).ids;
    std::memset(id->internal, 7, sizeof id->internal);
    return ncclSuccess;
  };
  table.get_error_string = [](ncclResult_t result) {
    return result == ncclSystemError ? "unhandled system error" : "some error";
  };
  table.comm_init_rank_config = [](ncclComm_t* comm, int, ncclUniqueId, int, ncclConfig_t* config) {
    ++rank_of(me).inits;
    if (config->blocking != 0) return ncclInvalidArgument;
    return make(comm, me);
  };
  table.comm_split = [](ncclComm_t parent, int, int, ncclComm_t* child, ncclConfig_t*) {
    ++rank_of(parent->rank).splits;
    return make(child, parent->rank);
  };
  table.comm_finalize = [](ncclComm_t) { return ncclSuccess; };
  table.comm_destroy = [](ncclComm_t comm) {
    while (rank_of(comm->rank).peers_are_late) std::this_thread::yield();
    return end(comm, &Rank::destroys);
  };
  table.comm_abort = [](ncclComm_t comm) {
    rank_of(comm->rank).aborted = true;
    return end(comm, &Rank::aborts);
  };
  table.comm_get_async_error = [](ncclComm_t comm, ncclResult_t* result) {
    auto& mine = rank_of(comm->rank);
    if (comm->polls > 0) {
      --comm->polls;
      *result = ncclInProgress;
      return ncclSuccess;
    }
    mine.starting = false;
    *result = mine.async_error;
    return ncclSuccess;
  };
  table.all_reduce = [](const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t comm,
                        cudaStream_t) { return move(comm); };
  table.reduce_scatter = [](const void*, void*, size_t, ncclDataType_t, ncclRedOp_t,
                            ncclComm_t comm, cudaStream_t) { return move(comm); };
  table.all_gather = [](const void*, void*, size_t, ncclDataType_t, ncclComm_t comm, cudaStream_t) {
    return move(comm);
  };
  table.broadcast = [](const void*, void*, size_t, ncclDataType_t, int, ncclComm_t comm,
                       cudaStream_t) { return move(comm); };
  table.send = [](const void*, size_t, ncclDataType_t, int, ncclComm_t comm, cudaStream_t) {
    return move(comm);
  };
  table.recv = [](void*, size_t, ncclDataType_t, int, ncclComm_t comm, cudaStream_t) {
    return move(comm);
  };
  table.group_start = [] { return ncclSuccess; };
  table.group_end = [] { return ncclSuccess; };
  return table;
}

CudaFunctions FakeGpus::cuda() const {
  CudaFunctions table;
  table.get_device = [](int* device) {
    *device = rank_of(me).gpu < 0 ? me : rank_of(me).gpu.load();
    return cudaSuccess;
  };
  table.set_device = [](int) { return cudaSuccess; };
  table.get_device_pci = [](char* text, int length, int device) {
    std::strncpy(text, std::to_string(device).c_str(), static_cast<std::size_t>(length));
    return cudaSuccess;
  };
  table.allocate = [](void** data, std::size_t bytes) {
    *data = ::operator new(bytes);
    return cudaSuccess;
  };
  table.release = [](void* data) {
    ::operator delete(data);
    return cudaSuccess;
  };
  table.create_stream = [](cudaStream_t* stream) {
    *stream = new CUstream_st;
    return cudaSuccess;
  };
  table.destroy_stream = [](cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
  };
  table.is_capturing = [](cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = rank_of(me).capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
  };
  table.create_event = [](cudaEvent_t* event) {
    *event = new CUevent_st;
    ++the_gpus->open_events_;
    return cudaSuccess;
  };
  table.destroy_event = [](cudaEvent_t event) {
    delete event;
    --the_gpus->open_events_;
    return cudaSuccess;
  };
  table.record_event = [](cudaEvent_t event, cudaStream_t) {
    event->rank = me;
    ++rank_of(me).events_recorded;
    if (rank_of(me).starting) rank_of(me).recorded_while_starting = true;
    return rank_of(me).event_error.load();
  };
  table.query_event = [](cudaEvent_t event) {
    const auto& mine = rank_of(event->rank);
    return mine.stuck && !mine.aborted ? cudaErrorNotReady : mine.event_error.load();
  };
  table.relax_capture = [] { return cudaSuccess; };
  table.error_text = [](cudaError_t) { return "a CUDA error"; };
  return table;
}

}  // namespace thinwire::comm
