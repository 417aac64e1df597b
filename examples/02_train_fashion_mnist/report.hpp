#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer.hpp"

namespace fashion {

/// What a comparison needs of a run. The JSON of a run has these keys and more.
struct RunRow {
  std::string codec;
  std::uint64_t seed = 0;
  double test_accuracy = 0;  ///< from 0 to 1
  double steps_per_s = 0;
  std::uint64_t payload_bytes_per_step = 0;
  std::uint64_t wire_bytes_per_step = 0;
  std::uint64_t plain_wire_bytes_per_step = 0;
  /// On ranks with a core and a link of this rate each, nothing overlapped: the computing and codec
  /// times of this run and thinwire/comm/cost_model.hpp for the wire.
  double predicted_step_ms_1gbps = 0;
  double predicted_step_ms_10gbps = 0;
};

RunRow row_of(const TrainOptions& options, const TrainResult& result);

/// The table at the end of a run.
std::string summary(const TrainOptions& options, const TrainResult& result);

/// Throws thinwire::IoError where `file` cannot be written, before a run is spent on it; keeps what
/// it holds.
void require_writable(const std::filesystem::path& file);

/// Writes the row, the options and the times of a run as one JSON object.
/// Throws thinwire::IoError naming the file.
void write_run(const std::filesystem::path& file, const TrainOptions& options,
               const TrainResult& result);

/// Reads the row back. Throws thinwire::IoError or thinwire::FormatError naming the file.
RunRow read_run(const std::filesystem::path& file);

/// Writes rows as a JSON list. Throws thinwire::IoError naming the file.
void write_rows(const std::filesystem::path& file, const std::vector<RunRow>& rows);

/// A table with one line a codec, in the order of first appearance: means over its runs.
std::string comparison(const std::vector<RunRow>& rows);

}  // namespace fashion
