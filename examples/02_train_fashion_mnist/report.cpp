#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "thinwire/comm/cost_model.hpp"
#include "thinwire/core/error.hpp"

namespace fashion {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunRow, codec, seed, test_accuracy, steps_per_s,
                                   payload_bytes_per_step, wire_bytes_per_step,
                                   plain_wire_bytes_per_step, predicted_step_ms_1gbps,
                                   predicted_step_ms_10gbps)

namespace {

namespace comm = thinwire::comm;

double predicted_step_ms(const TrainOptions& options, const TrainResult& result,
                         double gbits_per_s) {
  const comm::LinkModel link{.gbits_per_s = gbits_per_s};
  const auto buckets = result.buckets;
  if (options.buckets.codec.codec == thinwire::compress::Codec::none) {
    const auto bytes = result.payload_bytes_per_step / buckets;
    return result.compute_ms +
           static_cast<double>(buckets) * comm::ring_allreduce_ms(link, result.ranks, bytes);
  }
  const double codec_ms = result.codec_ms / static_cast<double>(buckets);
  const auto wire = result.wire_bytes_per_step / buckets;
  return result.compute_ms + static_cast<double>(buckets) *
                                 comm::two_phase_allreduce_ms(link, result.ranks, wire, codec_ms);
}

void write_json(const std::filesystem::path& file, const nlohmann::json& json) {
  std::ofstream out{file};
  out << json.dump(2) << '\n';
  out.close();
  THINWIRE_EXPECTS(out, thinwire::IoError, fmt::format("cannot write '{}'", file.string()));
}

double ratio(const RunRow& row) {
  return row.wire_bytes_per_step == 0 ? 1.0
                                      : static_cast<double>(row.plain_wire_bytes_per_step) /
                                            static_cast<double>(row.wire_bytes_per_step);
}

}  // namespace

RunRow row_of(const TrainOptions& options, const TrainResult& result) {
  return {.codec = to_string(options.buckets.codec),
          .seed = options.seed,
          .test_accuracy = result.test_accuracy,
          .steps_per_s = result.steps_per_s,
          .payload_bytes_per_step = result.payload_bytes_per_step,
          .wire_bytes_per_step = result.wire_bytes_per_step,
          .plain_wire_bytes_per_step = result.plain_wire_bytes_per_step,
          .predicted_step_ms_1gbps = predicted_step_ms(options, result, 1),
          .predicted_step_ms_10gbps = predicted_step_ms(options, result, 10)};
}

std::string summary(const TrainOptions& options, const TrainResult& result) {
  const auto row = row_of(options, result);
  std::string out;
  const auto line = [&out](std::string_view name, const std::string& value) {
    fmt::format_to(std::back_inserter(out), "  {:<14}{}\n", name, value);
  };
  line("codec", row.codec);
  line("ranks", fmt::format("{} ({}), {} allreduce{} a step", result.ranks, result.transport,
                            result.buckets, result.buckets == 1 ? "" : "s"));
  line("test accuracy", fmt::format("{:.2f} %", 100 * row.test_accuracy));
  line("speed",
       fmt::format("{:.1f} steps/s, {:.2f} ms a step", row.steps_per_s, 1000 / row.steps_per_s));
  line("payload", fmt::format("{} bytes a step and rank", row.payload_bytes_per_step));
  line("on the wire",
       fmt::format("{} bytes a step and rank, plain {}, ratio {:.1f}", row.wire_bytes_per_step,
                   row.plain_wire_bytes_per_step, ratio(row)));
  if (result.on_gpu) return out;  // its times are not known
  line("time a step",
       fmt::format("compute {:.2f} ms, encode {:.2f}, exchange {:.2f}, decode {:.2f}",
                   result.compute_ms, result.encode_ms, result.exchange_ms, result.decode_ms));
  line("predicted", fmt::format("{:.2f} ms a step at 1 Gb/s, {:.2f} at 10 Gb/s (a model)",
                                row.predicted_step_ms_1gbps, row.predicted_step_ms_10gbps));
  return out;
}

void require_writable(const std::filesystem::path& file) {
  const std::ofstream out{file, std::ios::app};
  THINWIRE_EXPECTS(out, thinwire::IoError, fmt::format("cannot write '{}'", file.string()));
}

void write_run(const std::filesystem::path& file, const TrainOptions& options,
               const TrainResult& result) {
  nlohmann::json json = row_of(options, result);
  json.update({{"model", options.model},
               {"epochs", options.epochs},
               {"batch", options.batch},
               {"lr", options.lr},
               {"momentum", options.momentum},
               {"bucket_cap", options.buckets.cap_bytes},
               {"chunks", options.buckets.chunks},
               {"transport", result.transport},
               {"ranks", result.ranks},
               {"steps", result.steps},
               {"buckets", result.buckets},
               {"train_loss", result.train_loss},
               {"compute_ms", result.compute_ms},
               {"encode_ms", result.encode_ms},
               {"exchange_ms", result.exchange_ms},
               {"decode_ms", result.decode_ms},
               {"codec_ms", result.codec_ms}});
  write_json(file, json);
}

RunRow read_run(const std::filesystem::path& file) {
  std::ifstream in{file};
  THINWIRE_EXPECTS(in, thinwire::IoError, fmt::format("cannot open '{}'", file.string()));
  try {
    return nlohmann::json::parse(in).get<RunRow>();
  } catch (const nlohmann::json::exception& error) {
    throw thinwire::FormatError{
        fmt::format("'{}' is not the JSON of a run: {}", file.string(), error.what())};
  }
}

void write_rows(const std::filesystem::path& file, const std::vector<RunRow>& rows) {
  write_json(file, rows);
}

std::string comparison(const std::vector<RunRow>& rows) {
  std::vector<std::string> codecs;
  for (const auto& row : rows) {
    if (std::ranges::find(codecs, row.codec) == codecs.end()) codecs.push_back(row.codec);
  }
  std::string out = fmt::format(
      "{:<12} {:>4} {:>9} {:>10} {:>10} {:>7} {:>9} | {:>9} {:>9}\n"
      "{:<12} {:>4} {:>9} {:>10} {:>10} {:>7} {:>9} | {:>9} {:>9}\n",
      "codec", "runs", "accuracy", "payload", "wire", "ratio", "ms/step", "1 Gb/s", "10 Gb/s", "",
      "", "mean %", "B/step", "B/step", "", "measured", "predicted", "ms/step");
  for (const auto& codec : codecs) {
    const auto mean = [&](const auto& value) {
      double sum = 0;
      double count = 0;
      for (const auto& row : rows) {
        if (row.codec != codec) continue;
        sum += value(row);
        ++count;
      }
      return sum / count;
    };
    fmt::format_to(
        std::back_inserter(out),
        "{:<12} {:>4} {:>9.2f} {:>10.0f} {:>10.0f} {:>7.1f} {:>9.2f} | {:>9.2f} {:>9.2f}\n", codec,
        std::ranges::count(rows, codec, &RunRow::codec),
        mean([](const RunRow& row) { return 100 * row.test_accuracy; }),
        mean([](const RunRow& row) { return static_cast<double>(row.payload_bytes_per_step); }),
        mean([](const RunRow& row) { return static_cast<double>(row.wire_bytes_per_step); }),
        mean(ratio), mean([](const RunRow& row) { return 1000 / row.steps_per_s; }),
        mean([](const RunRow& row) { return row.predicted_step_ms_1gbps; }),
        mean([](const RunRow& row) { return row.predicted_step_ms_10gbps; }));
  }
  return out;
}

}  // namespace fashion
