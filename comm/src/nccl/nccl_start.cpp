// How a session begins: identity, unique id, non-blocking init, first use of every connection.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "../backoff.hpp"
#include "../channel_control_plane.hpp"
#include "nccl_session.hpp"
#include "thinwire/core/error.hpp"
#include "transfers.hpp"

namespace thinwire::comm {
namespace {

/// Bytes that the first collectives move: enough for NCCL to take its algorithm for long messages,
/// whose connections it makes at their first use.
constexpr std::size_t exercise_bytes = std::size_t{8} << 20;
constexpr std::size_t short_bytes = 1024;

/// Names this machine, as NCCL tells machines apart.
std::string host_identity() {
  if (const char* text = std::getenv("NCCL_HOSTID"); text != nullptr && *text != '\0') return text;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  std::string boot;
  std::ifstream{"/proc/sys/kernel/random/boot_id"} >> boot;
  return fmt::format("{} {}", name.data(), boot);
}

}  // namespace

std::unique_ptr<NcclSession> NcclSession::start(const NcclFunctions& nccl,
                                                const CudaFunctions& cuda,
                                                std::unique_ptr<HostGroup> group,
                                                const NcclOptions& options) {
  std::unique_ptr<NcclSession> session{new NcclSession{nccl, cuda, std::move(group), options}};
  session->begin();
  return session;
}

void NcclSession::begin() {
  try {
    check(cuda_.get_device(&device_), "cudaGetDevice");
    check(cuda_.create_stream(&stream_), "cudaStreamCreate");
    check(cuda_.allocate(&word_, sizeof(std::uint64_t)), "cudaMalloc");
    inquest_ = group_->split(0, rank_);
    find_neighbours();
    make_communicator();
    make_blocking();
    watchdog_ = std::thread{[this] { keep_watch(); }};
    exercise();
  } catch (...) {
    fail(std::current_exception());
    throw;
  }
}

void NcclSession::find_neighbours() {
  int version = 0;
  check(nccl_.get_version(&version), {"ncclGetVersion"});
  require_equal(control(), "NCCL communicator",
                {{"version of NCCL", nccl_version_text(version)},
                 {"unique id from", options_.unique_id.empty() ? "rank 0" : "the caller"}},
                timeout_);
  std::array<char, 64> pci{};
  check(cuda_.get_device_pci(pci.data(), static_cast<int>(pci.size()), device_),
        "cudaDeviceGetPCIBusId");
  const auto mine = fmt::format("{}\n{}", host_identity(), pci.data());
  const auto places = control().all_gather(mine, timeout_);
  const auto host_of = [](const std::string& place) { return place.substr(0, place.find('\n')); };
  local_size_ = 0;
  for (int i = 0; i < size_; ++i) {
    const auto& place = places[static_cast<std::size_t>(i)];
    THINWIRE_EXPECTS(
        i == rank_ || place != mine, InvalidArgument,
        fmt::format("ranks {} and {} both use the GPU {} of one machine; give each its "
                    "own (cudaSetDevice or CUDA_VISIBLE_DEVICES)",
                    std::min(i, rank_), std::max(i, rank_), pci.data()));
    if (host_of(place) != host_of(mine)) continue;
    if (i == rank_) local_rank_ = local_size_;
    ++local_size_;
  }
}

ncclConfig_t NcclSession::make_config(bool blocking) const {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = blocking ? 1 : 0;
  if (options_.max_ctas > 0) config.maxCTAs = options_.max_ctas;
  return config;
}

ncclUniqueId NcclSession::agree_on_id() {
  ncclUniqueId id{};
  std::string text = options_.unique_id;
  if (text.empty()) {
    if (rank_ == 0) {
      check(nccl_.get_unique_id(&id), {"ncclGetUniqueId"});
      text.assign(id.internal, sizeof id.internal);
    }
    text = broadcast_from_root(control(), text, timeout_);
  }
  THINWIRE_EXPECTS(text.size() == sizeof id.internal, InvalidArgument,
                   fmt::format("rank {}: the NCCL unique id has {} bytes; it must have {}", rank_,
                               text.size(), sizeof id.internal));
  std::memcpy(id.internal, text.data(), text.size());
  return id;
}

/// Non-blocking: an abort must reach a rank whose peers do not come.
void NcclSession::make_communicator() {
  const ncclUniqueId id = agree_on_id();
  ncclConfig_t config = make_config(false);
  std::unique_lock lock{nccl_mutex_};
  const auto result = nccl_.comm_init_rank_config(&communicator_, size_, id, rank_, &config);
  settle(result, communicator_, {"start"}, deadline_after(timeout_), lock);
}

/// A non-blocking communicator starts a thread for every call (2.28: 70 us instead of 14). Now that
/// all ranks are there, a blocking child takes its place; from the exercise on, its calls enqueue
/// and return. Where NCCL has no split, the first one stays.
void NcclSession::make_blocking() {
  if (nccl_.comm_split == nullptr) return;
  ncclConfig_t config = make_config(true);
  std::unique_lock lock{nccl_mutex_};
  const auto deadline = deadline_after(timeout_);
  settle(nccl_.comm_split(communicator_, 0, rank_, &child_, &config), communicator_, {"split"},
         deadline, lock);
  // A thread of NCCL's writes the child when it is made; the parent may say success before.
  const std::atomic_ref child{child_};
  for (Backoff backoff; child.load(std::memory_order_acquire) == nullptr; backoff.pause()) {
    lock.unlock();
    throw_failure();
    if (const auto notice = control().abort_notice()) {
      throw aborted_error(context({"split"}), *notice);
    }
    THINWIRE_EXPECTS(
        Clock::now() < deadline, TimeoutError,
        fmt::format("{}: NCCL was not ready within {} ms", context({"split"}), timeout_.count()));
    lock.lock();
  }
  settle(ncclInProgress, child_, {"split"}, deadline, lock);
  settle(ncclInProgress, communicator_, {"split"}, deadline, lock);
  ncclComm_t first = std::exchange(communicator_, std::exchange(child_, nullptr));
  settle(nccl_.comm_finalize(first), first, {"end of the first communicator"},
         deadline_after(timeout_), lock);
  check(nccl_.comm_destroy(first), {"end of the first communicator"});
}

void NcclSession::exercise() {
  void* data = nullptr;
  check(cuda_.allocate(&data, 2 * exercise_bytes), "cudaMalloc");
  const std::shared_ptr<void> owner{data, [this](void* memory) { cuda_.release(memory); }};
  auto* in = static_cast<std::byte*>(data);
  auto* out = in + exercise_bytes;
  for (const std::size_t bytes : {short_bytes, exercise_bytes}) {
    const std::size_t part = bytes / static_cast<std::size_t>(size_) / 16 * 16;
    const auto each = [&](const char* verb, const Enqueue& enqueue) {
      run({verb, bytes}, StreamView{stream_}, Calls::several, enqueue);
    };
    each("first allreduce", [&](const NcclFunctions& nccl, ncclComm_t comm) {
      return nccl.all_reduce(in, out, bytes, ncclUint8, ncclMax, comm, stream_);
    });
    each("first all_gather", [&](const NcclFunctions& nccl, ncclComm_t comm) {
      return nccl.all_gather(in, out, part, ncclUint8, comm, stream_);
    });
    each("first reduce_scatter", [&](const NcclFunctions& nccl, ncclComm_t comm) {
      return nccl.reduce_scatter(in, out, part, ncclUint8, ncclMax, comm, stream_);
    });
    each("first all_to_all", [&](const NcclFunctions& nccl, ncclComm_t comm) {
      return enqueue_all_to_all(nccl, comm, size_, in, out, part, stream_);
    });
  }
  wait(*barrier(), timeout_);
}

std::unique_ptr<NcclSession> NcclSession::split(int color, int key) {
  auto group = group_->split(color, key);
  if (!group) return nullptr;
  NcclOptions options = options_;
  options.unique_id.clear();
  return start(nccl_, cuda_, std::move(group), options);
}

}  // namespace thinwire::comm
