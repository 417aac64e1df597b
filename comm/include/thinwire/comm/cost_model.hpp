#pragma once

#include <cstddef>

namespace thinwire::comm {

/// A network as a rank sees it: every rank has a link of its own, full duplex, and every message to
/// a peer costs its latency once. Defaults: TCP through one switch.
struct LinkModel {
  double gbits_per_s = 10;
  double latency_us = 30;
};

/// Milliseconds that one ring allreduce of `bytes` takes: 2 (n - 1) messages one after the other,
/// 2 (n - 1) / n of the bytes. 0 for one rank. Source: Patarasuk and Yuan 2009.
double ring_allreduce_ms(const LinkModel& link, int ranks, std::size_t bytes);

/// Milliseconds that one two-phase compressed allreduce takes when nothing overlaps: an all-to-all
/// and an all-gather, whose messages to all peers leave together, `wire_bytes` sent by each rank
/// (Plan::wire_bytes) and the codec's own time. `codec_ms` alone for one rank.
double two_phase_allreduce_ms(const LinkModel& link, int ranks, std::size_t wire_bytes,
                              double codec_ms);

}  // namespace thinwire::comm
