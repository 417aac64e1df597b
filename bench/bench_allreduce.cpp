// Time and bandwidth of the compressed allreduce beside the plain one, with nccl-tests' flags:
//   mpirun -np 4 bench_allreduce -b 1M -e 64M -f 4 --codec none,bf16,sign -J out.json
//   bench_allreduce --transport threads --ranks 4
//   torchrun --no-python --nproc-per-node 4 bench_allreduce --transport nccl -e 400M --codec
//   none,sign
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
#include "thinwire/comm/nccl.hpp"
#include "thinwire/comm/transports.hpp"

namespace {

using namespace thinwire;

struct Options {
  std::string min_bytes = "1M";
  std::string max_bytes = "64M";
  int factor = 4;
  int check = 1;
  std::string check_up_to = "64M";
  std::string codecs = "none,bf16,int4,sign,topk:0.01";
  std::string dtype = "fp32";
  std::string transport = "mpi";
  int ranks = 4;
  std::string algorithm = "two_phase";
  bench::Settings settings;
  bool peers = true;
  bool latency = false;
  std::string json;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("-b,--minbytes", options.min_bytes, "smallest size")->capture_default_str();
  app.add_option("-e,--maxbytes", options.max_bytes, "largest size")->capture_default_str();
  app.add_option("-f,--stepfactor", options.factor, "factor between sizes")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  app.add_option("-n,--iters", options.settings.iterations, "timed calls")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("-w,--warmup_iters", options.settings.warmup, "calls before them")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("-c,--check", options.check, "1: compare with the reference")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  app.add_option("--check-up-to", options.check_up_to, "largest size compared with the reference")
      ->capture_default_str();
  app.add_option("--codec", options.codecs, "codecs, by commas")->capture_default_str();
  app.add_option("--dtype", options.dtype, "fp32, fp16 or bf16")->capture_default_str();
  app.add_option("--transport", options.transport, "mpi, threads, or nccl: GPUs")
      ->check(CLI::IsMember({"mpi", "threads", "nccl"}))
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
               "also MPI_Allreduce as MPI picks it, and its ring; or ncclAllReduce")
      ->capture_default_str();
  app.add_flag("--latency", options.latency, "also all-to-all and all-gather, 64K to 1M");
  app.add_option("-J,--json", options.json, "write the rows to this file");
}

bench::Settings settings_of(const Options& options) {
  bench::Settings settings = options.settings;
  settings.dtype = parse_dtype(options.dtype);
  settings.algorithm = comm::parse_algorithm(options.algorithm);
  settings.check_up_to = options.check == 1 ? bench::parse_bytes(options.check_up_to) : 0;
  return settings;
}

void run_rank(comm::Communicator& communicator, const Options& options,
              const bench::Settings& settings, bench::AllreduceCases& cases) {
  const bool speaks = communicator.rank() == 0;
  nlohmann::json rows = nlohmann::json::array();
  if (speaks) {
    std::cout << fmt::format(
        "# thinwire bench_allreduce: {} ranks over {}, {} warm-up, {} timed calls\n",
        communicator.size(), communicator.transport(), settings.warmup, settings.iterations);
    bench::print_head();
  }
  const auto emit = [&](const bench::Row& row) {
    if (!speaks) return;
    bench::print_row(row);
    rows.push_back(bench::to_json(row));
  };
  const std::size_t last = bench::parse_bytes(options.max_bytes);
  for (std::size_t bytes = bench::parse_bytes(options.min_bytes); bytes <= last;
       bytes *= static_cast<std::size_t>(options.factor)) {
    const auto elements = static_cast<std::int64_t>(bytes / size_of(settings.dtype));
    if (options.peers) {
      for (const auto& row : cases.peers(elements)) emit(row);
    }
    for (const auto& codec : compress::parse_codec_list(options.codecs)) {
      emit(cases.codec(codec, elements));
    }
  }
  if (options.latency) {
    for (std::size_t bytes = 64 << 10; bytes <= 1 << 20; bytes *= 2) {
      for (const auto& row : cases.exchanges(bytes)) emit(row);
    }
  }
  if (speaks && !options.json.empty()) {
    std::ofstream file{options.json};
    file << rows.dump(2) << '\n';
    THINWIRE_EXPECTS(file.good(), IoError, fmt::format("cannot write '{}'", options.json));
  }
}

void run_host(comm::Communicator& communicator, const Options& options) {
  const auto settings = settings_of(options);
  run_rank(communicator, options, settings, *bench::make_host_cases(communicator, settings));
}

/// Other ranks must hear of an error of this one.
template <typename Body>
void aborting(comm::Communicator& communicator, Body body) {
  try {
    body();
  } catch (const std::exception& error) {
    communicator.abort(error.what());
    throw;
  }
}

void run_mpi(const Options& options) {
  // Lets Open MPI's algorithm be chosen by name for the ring row; nothing else changes by it.
  setenv("OMPI_MCA_coll_tuned_use_dynamic_rules", "1", 0);
  const auto communicator = comm::make_mpi_communicator();
  aborting(*communicator, [&] { run_host(*communicator, options); });
}

void run_nccl([[maybe_unused]] const Options& options) {
#ifdef THINWIRE_BENCH_NCCL
  bench::choose_gpu();
  const auto communicator = comm::make_nccl_communicator(comm::tcp_rendezvous());
  aborting(*communicator, [&] {
    const auto settings = settings_of(options);
    run_rank(*communicator, options, settings, *bench::make_gpu_cases(*communicator, settings));
  });
#else
  throw InvalidArgument{"this build has no NCCL; build it with CUDA and nccl.h present"};
#endif
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
                      [&](comm::Communicator& communicator) { run_host(communicator, options); });
    } else if (options.transport == "nccl") {
      run_nccl(options);
    } else {
      run_mpi(options);
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_allreduce: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
