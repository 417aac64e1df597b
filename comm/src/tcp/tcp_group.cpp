#include "tcp_group.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <numeric>

#include "thinwire/compress/header.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

std::vector<int> first_ranks(int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

int place_of(const std::vector<int>& members, int rank) {
  return static_cast<int>(std::find(members.begin(), members.end(), rank) - members.begin());
}

std::vector<int> picked(const std::vector<int>& members, const std::vector<int>& places) {
  std::vector<int> result;
  for (const int place : places) result.push_back(members[static_cast<std::size_t>(place)]);
  return result;
}

const TcpRendezvous& checked(const TcpRendezvous& rendezvous) {
  THINWIRE_EXPECTS(
      rendezvous.size >= 1 && rendezvous.rank >= 0 && rendezvous.rank < rendezvous.size &&
          rendezvous.port > 0 && rendezvous.port < 65536 && rendezvous.timeout > Timeout{0},
      InvalidArgument,
      fmt::format("TCP rendezvous: rank {} of {} at '{}' port {} with a timeout of {} ms",
                  rendezvous.rank, rendezvous.size, rendezvous.host, rendezvous.port,
                  rendezvous.timeout.count()));
  return rendezvous;
}

/// The first of `names` that is set, or null.
const char* first_set(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return value;
  }
  return nullptr;
}

int number_from(std::initializer_list<const char*> names, const char* what) {
  const char* text = first_set(names);
  THINWIRE_EXPECTS(text != nullptr, InvalidArgument,
                   fmt::format("the {} of this process is not in the environment; start it with "
                               "torchrun, mpirun or srun, or set {}",
                               what, *names.begin()));
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  THINWIRE_EXPECTS(end != text && *end == '\0' && value >= 0 && value <= 1 << 20, InvalidArgument,
                   fmt::format("the {} '{}' in the environment is no number", what, text));
  return static_cast<int>(value);
}

}  // namespace

TcpGroup::TcpGroup(const TcpRendezvous& rendezvous)
    : link_{TcpLink::open(checked(rendezvous))},
      number_{0},
      members_{first_ranks(rendezvous.size)},
      control_{rendezvous.rank, rendezvous.size,
               std::make_unique<TcpChannel>(link_, number_, members_)} {}

TcpGroup::TcpGroup(TcpGroup& parent, std::uint64_t number, const std::vector<int>& places)
    : link_{parent.link_},
      number_{number},
      members_{picked(parent.members_, places)},
      control_{place_of(members_, link_->rank()), static_cast<int>(members_.size()),
               std::make_unique<TcpChannel>(link_, number_, members_), &parent.control_, places} {}

std::unique_ptr<HostGroup> TcpGroup::split(int color, int key) {
  const auto places = agree_on_split(control_, color, key).members;
  // All members derive the same number for their channel; different ones for different groups.
  const auto number = compress::mix64(number_ + compress::mix64(++splits_) +
                                      static_cast<std::uint64_t>(std::max(color, 0)));
  if (places.empty()) return nullptr;
  return std::unique_ptr<TcpGroup>{new TcpGroup{*this, number, places}};
}

TcpRendezvous tcp_rendezvous() {
  const Config& settings = config();
  TcpRendezvous result;
  result.rank = number_from({"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}, "rank");
  result.size = number_from({"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"},
                            "number of ranks");
  result.timeout = settings.timeout;
  result.host = settings.master_addr;
  if (result.host.empty()) {
    const char* host = first_set({"MASTER_ADDR"});
    result.host = host != nullptr ? host : "127.0.0.1";
  }
  result.port = settings.master_port;
  if (result.port == 0) {
    // The port itself belongs to torchrun's own store.
    result.port = 1 + (first_set({"MASTER_PORT"}) ? number_from({"MASTER_PORT"}, "port") : 29500);
  }
  result.secret = settings.job_secret;
  if (result.secret.empty()) {
    const char* job = first_set({"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"});
    result.secret = fmt::format("{}:{}:{}", result.host, result.port, job ? job : "");
    if (result.size > 1 && result.rank == 0) {
      log(LogLevel::warning,
          "THINWIRE_JOB_SECRET is not set: whoever can reach the port can join this job");
    }
  }
  return result;
}

std::unique_ptr<ControlPlane> make_tcp_control_plane(const TcpRendezvous& rendezvous) {
  checked(rendezvous);
  auto link = TcpLink::open(rendezvous);
  return std::make_unique<ChannelControlPlane>(
      rendezvous.rank, rendezvous.size,
      std::make_unique<TcpChannel>(std::move(link), 0, first_ranks(rendezvous.size)));
}

}  // namespace thinwire::comm
