// Time and bandwidth of the compressed allreduce beside the plain one, with nccl-tests' flags:
//   mpirun -np 4 bench_allreduce -b 1M -e 64M -f 4 --codec none,bf16,sign -J out.json
//   bench_allreduce --transport threads --ranks 4
// algbw = bytes / time and busbw = algbw * 2 (N - 1) / N, both of the uncompressed bytes, so that
// rows compare; wire is what one rank really sent.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "allreduce_case.hpp"
#include "allreduce_table.hpp"
#include "thinwire/comm/transports.hpp"

namespace {

using namespace thinwire;

struct Options {
  std::string min_bytes = "1M";
  std::string max_bytes = "64M";
  int factor = 4;
  int iterations = 10;
  int warmup = 2;
  int check = 1;
  std::string codecs = "none,bf16,int4,sign,topk:0.01";
  std::string dtype = "fp32";
  std::string transport = "mpi";
  int ranks = 4;
  std::string algorithm = "two_phase";
  bench::Settings settings;
  bool peers = true;
  std::string json;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("-b,--minbytes", options.min_bytes, "smallest size")->capture_default_str();
  app.add_option("-e,--maxbytes", options.max_bytes, "largest size")->capture_default_str();
  app.add_option("-f,--stepfactor", options.factor, "factor between sizes")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("-n,--iters", options.iterations, "timed calls")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("-w,--warmup_iters", options.warmup, "calls before them")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("-c,--check", options.check, "1: compare with the reference")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--codec", options.codecs, "codecs, by commas")->capture_default_str();
  app.add_option("--dtype", options.dtype, "fp32, fp16 or bf16")->capture_default_str();
  app.add_option("--transport", options.transport, "mpi or threads")
      ->check(CLI::IsMember({"mpi", "threads"}))
      ->capture_default_str();
  app.add_option("--ranks", options.ranks, "ranks of the threads transport")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--algorithm", options.algorithm, "two_phase, auto, sparse or summable")
      ->capture_default_str();
  app.add_option("--chunks", options.settings.chunks, "chunks a bucket")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", options.settings.threads, "codec threads a rank; 0: by configuration")
      ->capture_default_str();
  app.add_flag("--peers,!--no-peers", options.peers,
               "also MPI_Allreduce as MPI picks it, and its ring")
      ->capture_default_str();
  app.add_option("-J,--json", options.json, "write the rows to this file");
}

void run_rank(comm::Communicator& communicator, const Options& options) {
  const bool speaks = communicator.rank() == 0;
  const DType dtype = parse_dtype(options.dtype);
  nlohmann::json rows = nlohmann::json::array();
  if (speaks) {
    std::cout << fmt::format(
        "# thinwire bench_allreduce: {} ranks over {}, {} warm-up, {} timed calls\n",
        communicator.size(), communicator.transport(), options.warmup, options.iterations);
    bench::print_head();
  }
  bench::Settings settings = options.settings;
  settings.algorithm = comm::parse_algorithm(options.algorithm);
  const bench::Repeat repeat{options.warmup, options.iterations, options.check == 1};
  const auto emit = [&](const bench::Row& row) {
    if (!speaks) return;
    bench::print_row(row);
    rows.push_back(bench::to_json(row));
  };
  const std::size_t last = bench::parse_bytes(options.max_bytes);
  for (std::size_t bytes = bench::parse_bytes(options.min_bytes); bytes <= last;
       bytes *= static_cast<std::size_t>(options.factor)) {
    const auto elements = static_cast<std::int64_t>(bytes / size_of(dtype));
    if (options.peers && communicator.transport() == "mpi" && dtype == DType::f32) {
      for (const auto algorithm : {comm::MpiAllreduce::picked, comm::MpiAllreduce::ring}) {
        emit(bench::measure_peer(communicator, algorithm, elements, repeat));
      }
    }
    for (const auto& codec : compress::parse_codec_list(options.codecs)) {
      emit(bench::measure_codec(communicator, codec, elements, dtype, settings, repeat));
    }
  }
  if (speaks && !options.json.empty()) {
    std::ofstream file{options.json};
    file << rows.dump(2) << '\n';
    THINWIRE_EXPECTS(file.good(), IoError, fmt::format("cannot write '{}'", options.json));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Compressed allreduce beside the plain one"};
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    if (options.transport == "threads") {
      comm::run_ranks(options.ranks,
                      [&](comm::Communicator& communicator) { run_rank(communicator, options); });
    } else {
      // Lets Open MPI's algorithm be chosen by name for the ring row; nothing else changes by it.
      setenv("OMPI_MCA_coll_tuned_use_dynamic_rules", "1", 0);
      const auto communicator = comm::make_mpi_communicator();
      try {
        run_rank(*communicator, options);
      } catch (const std::exception& error) {
        communicator->abort(error.what());
        throw;
      }
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_allreduce: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
