#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "thinwire/core/dtype.hpp"

/// The table that allreduce benchmarks print, in the manner of nccl-tests.
namespace thinwire::bench {

/// One line of the table. Times are the slowest rank's mean over the timed calls.
struct Row {
  std::string codec;
  std::string transport;
  int ranks = 1;
  std::size_t bytes = 0;  ///< uncompressed, of one rank's gradients
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  double time_us = 0;
  std::uint64_t wire_bytes = 0;  ///< sent by rank 0 in one call
  std::int64_t wrong = -1;       ///< elements with other bits than the reference; -1: not checked

  double algbw_gbs() const { return static_cast<double>(bytes) / time_us * 1e-3; }
  double busbw_gbs() const { return algbw_gbs() * 2 * (ranks - 1) / ranks; }
};

/// Bytes that a ring allreduce of `bytes` sends from one rank.
inline std::uint64_t ring_bytes(std::size_t bytes, int ranks) {
  const auto n = static_cast<std::uint64_t>(ranks);
  return 2 * (n - 1) * bytes / n;
}

void print_head();
void print_row(const Row& row);

/// Throws IoError where `file` cannot be written, before anything is measured for it; keeps what it
/// holds.
void require_writable(const std::string& file);

/// The rows as one JSON list. Throws IoError.
void write_rows(const std::string& file, const std::vector<Row>& rows);

}  // namespace thinwire::bench
