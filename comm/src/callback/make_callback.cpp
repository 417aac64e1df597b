#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>

#include "../point_to_point_communicator.hpp"
#include "../tcp/tcp_channel.hpp"
#include "callback_transport.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

/// Equal for the processes of one host, and for them alone: its name and the kernel's boot.
std::string host_identity() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  std::ifstream boot{"/proc/sys/kernel/random/boot_id"};
  std::string identity{name.data()};
  identity.append(std::istreambuf_iterator<char>{boot}, {});
  return identity;
}

}  // namespace

std::unique_ptr<Communicator> make_callback_communicator(std::unique_ptr<ByteExchange> exchange,
                                                         const TcpRendezvous& rendezvous) {
  THINWIRE_EXPECTS(
      exchange->rank() == rendezvous.rank && exchange->size() == rendezvous.size, InvalidArgument,
      fmt::format("the exchange is rank {} of {}, but the rendezvous is for rank {} of {}",
                  exchange->rank(), exchange->size(), rendezvous.rank, rendezvous.size));
  TcpRendezvous resolved = rendezvous;
  if (resolved.timeout == Timeout{}) resolved.timeout = config().timeout;
  auto link = TcpLink::open(resolved);
  std::vector<int> ranks(static_cast<std::size_t>(rendezvous.size));
  std::iota(ranks.begin(), ranks.end(), 0);

  std::vector<std::uint64_t> hosts;
  {
    // A channel of its own: the communicator's counts its rounds from 0.
    constexpr std::uint64_t number = 1;
    ChannelControlPlane control{rendezvous.rank, rendezvous.size,
                                std::make_unique<TcpChannel>(link, number, ranks)};
    for (const auto& identity : control.all_gather(host_identity(), resolved.timeout)) {
      hosts.push_back(std::hash<std::string>{}(identity));
    }
  }
  auto channel = std::make_unique<TcpChannel>(link, 0, ranks);
  auto data = std::make_unique<CallbackTransport>(std::move(exchange), std::move(link),
                                                  std::move(ranks), std::move(hosts), 0);
  return std::make_unique<PointToPointCommunicator>(Endpoint{std::move(data), std::move(channel)});
}

}  // namespace thinwire::comm
