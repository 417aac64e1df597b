#include "thinwire/comm/cost_model.hpp"

#include <fmt/format.h>

#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

void check(const LinkModel& link, int ranks) {
  THINWIRE_EXPECTS(link.gbits_per_s > 0 && link.latency_us >= 0, InvalidArgument,
                   fmt::format("no such link: {} Gb/s, {} us", link.gbits_per_s, link.latency_us));
  THINWIRE_EXPECTS(ranks >= 1, InvalidArgument, fmt::format("{} ranks; at least 1", ranks));
}

double transfer_ms(const LinkModel& link, double bytes) {
  return bytes * 8 / (link.gbits_per_s * 1e6);
}

}  // namespace

double ring_allreduce_ms(const LinkModel& link, int ranks, std::size_t bytes) {
  check(link, ranks);
  const double messages = 2.0 * (ranks - 1);
  return messages * link.latency_us / 1000 +
         transfer_ms(link, messages / ranks * static_cast<double>(bytes));
}

double two_phase_allreduce_ms(const LinkModel& link, int ranks, std::size_t wire_bytes,
                              double codec_ms) {
  check(link, ranks);
  if (ranks == 1) return codec_ms;
  return 2 * link.latency_us / 1000 + transfer_ms(link, static_cast<double>(wire_bytes)) + codec_ms;
}

}  // namespace thinwire::comm
