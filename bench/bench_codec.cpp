// Time of the verbs beside what the memory of this machine can do:
//   bench_codec --codec sign,int8 --op encode,decode --elements 100000000 --threads 1,2 -J out.json
// On a GPU (--device cuda) R is the rate of a copy, and of e = g + e in a second row.
// floor_ms = B * n / R: B bytes an element must move, R the rate of the fastest pass e += g that
// also stores n / 8 bytes. floor_share = floor_ms / time_ms.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench_codec_case.hpp"
#include "bench_codec_floor.hpp"
#if THINWIRE_HAVE_CUDA
#include "bench_codec_cuda.hpp"
#endif
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/error.hpp"

namespace {

using namespace thinwire;
using bench::CodecCase;
using bench::CodecTimes;
using compress::Codec;
using compress::Commit;
using compress::Feedback;

/// Lists; every combination that makes sense is a row.
struct Options {
  std::vector<std::string> codecs{"sign", "int8", "int4", "fp16", "bf16", "topk:0.01"};
  std::vector<std::string> ops{"encode", "reduce_encode", "decode"};
  std::vector<std::string> dtypes{"fp32"};
  std::string device = "cpu";
  std::vector<std::int64_t> elements{10'000'000};
  std::vector<int> ranks{4};
  std::vector<int> threads{1};
  std::vector<bool> feedback;
  std::vector<std::string> commits{"in_place"};
  std::vector<std::string> targets{"best"};
  std::vector<std::string> data{"gaussian"};
  std::vector<bool> aligned{true};
  int repetitions = 9;
  std::string json;
};

void add_options(CLI::App& app, Options& options) {
  const auto list = [&](const char* name, auto& values, const char* help) {
    return app.add_option(name, values, help)->delimiter(',')->capture_default_str();
  };
  list("--codec", options.codecs, "codecs, as parse_codec takes them");
  list("--op", options.ops, "encode, reduce_encode, decode")
      ->check(CLI::IsMember({"encode", "reduce_encode", "decode"}));
  list("--dtype", options.dtypes, "of the gradients: fp32, fp16, bf16");
  app.add_option("--device", options.device, "cpu, cuda")->capture_default_str();
  list("--elements", options.elements, "n; for reduce_encode of the one shard")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  list("--ranks", options.ranks, "shards, and payloads that are added")->check(CLI::Range(1, 1024));
  list("--threads", options.threads, "codec threads")->check(CLI::Range(1, 1024));
  list("--ef", options.feedback, "true, false; default: as the codec has it");
  list("--commit", options.commits, "in_place, double")
      ->check(CLI::IsMember({"in_place", "double"}));
  list("--target", options.targets,
       "SIMD targets; best: this machine's, whatever THINWIRE_SIMD says");
  list("--data", options.data, "gaussian, scaled, constant")
      ->check(CLI::IsMember({"gaussian", "scaled", "constant"}));
  list("--aligned", options.aligned, "true, false: gradients one element off");
  app.add_option("-n,--repetitions", options.repetitions, "interleaved repetitions; medians count")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("-J,--json", options.json, "write the rows to this file");
}

/// With the feedback that the list asks for, or the codec's own if the list is empty.
std::vector<compress::CodecSpec> specs_of(const Options& options) {
  std::vector<compress::CodecSpec> specs;
  for (const std::string& name : options.codecs) {
    compress::CodecSpec spec = compress::parse_codec(name);
    THINWIRE_EXPECTS(spec.codec != Codec::none, InvalidArgument,
                     "codec none is the plain path: there is nothing to measure");
    if (options.feedback.empty()) specs.push_back(spec);
    for (const bool ef : options.feedback) {
      spec.feedback = ef ? Feedback::ef : Feedback::none;
      specs.push_back(spec);
    }
  }
  return specs;
}

std::vector<CodecCase> cases_of(const Options& options) {
  std::vector<CodecCase> cases;
  CodecCase wanted;
  for (const auto& spec : specs_of(options))
    for (const auto& op : options.ops)
      for (const auto& dtype : options.dtypes)
        for (const auto elements : options.elements)
          for (const int ranks : options.ranks)
            for (const auto& commit : options.commits)
              for (const auto& target : options.targets)
                for (const auto& data : options.data)
                  for (const bool aligned : options.aligned)
                    for (const int threads : options.threads) {
                      cases.push_back(
                          {spec, op, parse_dtype(dtype), elements, ranks, threads,
                           commit == "double" ? Commit::double_buffered : Commit::in_place,
                           target == "best" ? compress::simd_targets().front() : target, data,
                           aligned});
                    }
  return cases;
}

/// The codec without its feedback, which has a column of its own.
std::string codec_name(compress::CodecSpec spec) {
  spec.feedback =
      compress::parse_codec(to_string(spec.codec) == "topk" ? "topk:0.5"
                                                            : std::string{to_string(spec.codec)})
          .feedback;
  return to_string(spec);
}

std::string commit_name(Commit commit) {
  return commit == Commit::in_place ? "in_place" : "double";
}

double floor_ms(const CodecCase& wanted, const CodecTimes& times) {
  return bench::floor_bytes(wanted) / bench::floor_pass_bytes * times.rmw_ms;
}

void print_head() {
  std::cout << fmt::format(
      "{:>12} {:>13} {:>5} {:>10} {:>5} {:>3} {:>5} {:>8} {:>6} {:>8} {:>5} "
      "{:>9} {:>7} {:>9} {:>6} {:>9}\n",
      "codec", "op", "dtype", "elements", "ranks", "thr", "ef", "commit", "target", "data", "align",
      "time_ms", "GB/s", "floor_ms", "share", "memcpy_ms");
}

void print_row(const CodecCase& wanted, const CodecTimes& times) {
  const double floor = floor_ms(wanted, times);
  const double gbs =
      bench::floor_bytes(wanted) * static_cast<double>(wanted.elements) / times.time_ms * 1e-6;
  std::cout << fmt::format(
                   "{:>12} {:>13} {:>5} {:>10} {:>5} {:>3} {:>5} {:>8} {:>6} {:>8} {:>5} {:>9.3f} "
                   "{:>7.2f} {:>9.3f} {:>6.3f} {:>9.3f}\n",
                   codec_name(wanted.spec), wanted.op, to_string(wanted.dtype), wanted.elements,
                   wanted.ranks, wanted.threads, wanted.spec.feedback == Feedback::ef,
                   commit_name(wanted.commit), wanted.target, wanted.data, wanted.aligned,
                   times.time_ms, gbs, floor, floor / times.time_ms, times.memcpy_ms)
            << std::flush;
}

nlohmann::json to_json(const CodecCase& wanted, const std::string& device, const std::string& floor,
                       double time_ms, double floor_ms) {
  return {{"codec", codec_name(wanted.spec)},
          {"op", wanted.op},
          {"dtype", to_string(wanted.dtype)},
          {"device", device},
          {"elements", wanted.elements},
          {"ranks", wanted.ranks},
          {"threads", wanted.threads},
          {"ef", wanted.spec.feedback == Feedback::ef},
          {"commit", commit_name(wanted.commit)},
          {"target", wanted.target},
          {"data", wanted.data},
          {"aligned", wanted.aligned},
          {"floor", floor},
          {"time_ms", time_ms},
          {"floor_ms", floor_ms},
          {"floor_share", floor_ms / time_ms}};
}

/// The file for the rows; open before the first of them is measured.
class JsonFile {
 public:
  explicit JsonFile(std::string path) : path_{std::move(path)} {
    if (path_.empty()) return;
    file_.open(path_);
    check();
  }

  void write(const nlohmann::json& rows) {
    if (path_.empty()) return;
    file_ << rows.dump(2) << std::endl;
    check();
  }

 private:
  void check() const {
    THINWIRE_EXPECTS(file_.good(), IoError, fmt::format("cannot write '{}'", path_));
  }

  std::string path_;
  std::ofstream file_;
};

void run_on_gpu(const Options& options, JsonFile& json) {
#if THINWIRE_HAVE_CUDA
  bench::CudaCodecBench bench{options.repetitions};
  std::cout << fmt::format(
      "# thinwire bench_codec: medians of {} replays of 8 calls; floors: a copy, and e = g + e\n"
      "{:>12} {:>13} {:>5} {:>10} {:>5} {:>5} {:>8} {:>5} {:>9} {:>9} {:>6} {:>9} {:>6}\n",
      options.repetitions, "codec", "op", "dtype", "elements", "ranks", "ef", "commit", "align",
      "time_ms", "copy_ms", "share", "mix_ms", "share");
  nlohmann::json rows = nlohmann::json::array();
  for (CodecCase wanted : cases_of(options)) {
    wanted.target = "cuda";
    const bench::CudaFloors floors = bench.floors(wanted.elements);
    const double time = bench.time_ms(wanted);
    const double bytes = bench::floor_bytes(wanted) * static_cast<double>(wanted.elements);
    const double copy = bytes / floors.copy;
    const double mix = bytes / floors.mix;
    std::cout << fmt::format(
                     "{:>12} {:>13} {:>5} {:>10} {:>5} {:>5} {:>8} {:>5} {:>9.4f} {:>9.4f} "
                     "{:>6.3f} {:>9.4f} {:>6.3f}\n",
                     codec_name(wanted.spec), wanted.op, to_string(wanted.dtype), wanted.elements,
                     wanted.ranks, wanted.spec.feedback == Feedback::ef, commit_name(wanted.commit),
                     wanted.aligned, time, copy, copy / time, mix, mix / time)
              << std::flush;
    rows.push_back(to_json(wanted, "cuda", "copy", time, copy));
    rows.push_back(to_json(wanted, "cuda", "mix", time, mix));
  }
  json.write(rows);
#else
  static_cast<void>(json);
  throw InvalidArgument{fmt::format("device '{}': this build has no CUDA", options.device)};
#endif
}

/// What else is to be said of a row. `one_thread`: of the same case before, if there was one.
void print_remarks(const CodecCase& wanted, const CodecTimes& times, const CodecTimes& one_thread) {
  const auto remark = [](const std::string& text) {
    std::cout << fmt::format("{:>12} {}\n", "", text) << std::flush;
  };
  if (wanted.threads > 1 && one_thread.time_ms > 0) {
    remark(fmt::format("{} threads: {:.2f} times as fast as one, the floor {:.2f} times",
                       wanted.threads, one_thread.time_ms / times.time_ms,
                       one_thread.rmw_ms / times.rmw_ms));
  }
  if (times.fill_ms > 0) {
    remark(fmt::format("a fill of the same array alone: {:.3f} ms, {:.3f} of the time",
                       times.fill_ms, times.fill_ms / times.time_ms));
  }
  if (wanted.spec.codec == Codec::topk && wanted.op == "encode" && wanted.threads == 1) {
    const double other = bench::nth_element_ms(wanted, 5);
    remark(fmt::format("std::nth_element on |x|, the faster order: {:.1f} ms, {:.1f} times as long",
                       other, other / times.time_ms));
  }
}

void run(const Options& options) {
  THINWIRE_EXPECTS(options.device == "cpu" || options.device == "cuda", InvalidArgument,
                   fmt::format("device '{}': cpu or cuda", options.device));
  JsonFile json{options.json};
  if (options.device == "cuda") return run_on_gpu(options, json);
  std::cout << fmt::format(
      "# thinwire bench_codec: medians of {} interleaved repetitions; floor rmw: e += g and n/8 "
      "bytes\n",
      options.repetitions);
  print_head();
  nlohmann::json rows = nlohmann::json::array();
  CodecTimes one_thread;
  for (const CodecCase& wanted : cases_of(options)) {
    const CodecTimes times = bench::measure(wanted, options.repetitions);
    print_row(wanted, times);
    rows.push_back(to_json(wanted, "cpu", "rmw", times.time_ms, floor_ms(wanted, times)));
    if (wanted.threads == 1) one_thread = times;
    print_remarks(wanted, times, one_thread);
  }
  json.write(rows);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Codecs beside the floor that memory sets"};
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::cerr << "bench_codec: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
