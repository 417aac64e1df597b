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
#include <iostream>
#include <vector>

#include "allreduce_case.hpp"
#include "allreduce_sizes.hpp"
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
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("-w,--warmup_iters", options.settings.warmup, "calls before them")
      ->check(CLI::Range(0, 1'000'000))
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
  app.add_option("--chunks", options.settings.chunks,
                 "chunks a bucket; 0: 4 of 4 Mi elements or more over MPI between hosts, else 1")
      ->check(CLI::Range(0, 65'536))
      ->capture_default_str();
  app.add_option("--threads", options.settings.threads, "codec threads a rank; 0: by configuration")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--peers,!--no-peers", options.peers,
               "also MPI_Allreduce as MPI picks it, and its ring; or ncclAllReduce")
      ->capture_default_str();
  app.add_flag("--latency", options.latency, "also all-to-all and all-gather, 64K to 1M");
  app.add_option("-J,--json", options.json, "write the rows to this file");
}

/// What the options come to. Nothing is begun before all of them are understood.
struct Job {
  bench::Settings settings;
  std::vector<std::size_t> sizes{};
  std::vector<compress::CodecSpec> codecs;
  bool peers;
  bool latency;
  std::string json;
};

Job job_of(const Options& options) {
  Job job{.settings = options.settings,
          .codecs = compress::parse_codec_list(options.codecs),
          .peers = options.peers,
          .latency = options.latency,
          .json = options.json};
  job.settings.dtype = parse_dtype(options.dtype);
  job.settings.algorithm = comm::parse_algorithm(options.algorithm);
  const std::size_t check_up_to = bench::parse_bytes(options.check_up_to);
  job.settings.check_up_to = options.check == 1 ? check_up_to : 0;
  job.sizes = bench::parse_sizes(options.min_bytes, options.max_bytes, options.factor,
                                 size_of(job.settings.dtype));
  return job;
}

void run_rank(comm::Communicator& communicator, const Job& job, bench::AllreduceCases& cases) {
  const bool speaks = communicator.rank() == 0;
  std::vector<bench::Row> rows;
  if (speaks) {
    if (!job.json.empty()) bench::require_writable(job.json);
    std::cout << fmt::format(
        "# thinwire bench_allreduce: {} ranks over {}, {} warm-up, {} timed calls\n",
        communicator.size(), communicator.transport(), job.settings.warmup,
        job.settings.iterations);
    bench::print_head();
  }
  const auto emit = [&](const bench::Row& row) {
    if (!speaks) return;
    bench::print_row(row);
    rows.push_back(row);
  };
  for (const std::size_t bytes : job.sizes) {
    const auto elements = static_cast<std::int64_t>(bytes / size_of(job.settings.dtype));
    if (job.peers) {
      for (const auto& row : cases.peers(elements)) emit(row);
    }
    for (const auto& codec : job.codecs) emit(cases.codec(codec, elements));
  }
  if (job.latency) {
    for (std::size_t bytes = 64 << 10; bytes <= 1 << 20; bytes *= 2) {
      for (const auto& row : cases.exchanges(bytes)) emit(row);
    }
  }
  if (speaks && !job.json.empty()) bench::write_rows(job.json, rows);
}

void run_host(comm::Communicator& communicator, const Job& job) {
  run_rank(communicator, job, *bench::make_host_cases(communicator, job.settings));
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

void run_mpi(const Job& job) {
  // Lets Open MPI's algorithm be chosen by name for the ring row; nothing else changes by it.
  setenv("OMPI_MCA_coll_tuned_use_dynamic_rules", "1", 0);
  const auto communicator = comm::make_mpi_communicator();
  aborting(*communicator, [&] { run_host(*communicator, job); });
}

void run_nccl([[maybe_unused]] const Job& job) {
#ifdef THINWIRE_BENCH_NCCL
  bench::choose_gpu();
  const auto communicator = comm::make_nccl_communicator(comm::tcp_rendezvous());
  aborting(*communicator, [&] {
    run_rank(*communicator, job, *bench::make_gpu_cases(*communicator, job.settings));
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
  try {
    app.parse(argc, argv);
    if (app.count("--ranks") > 0 && options.transport != "threads") {
      throw CLI::ValidationError{"--ranks",
                                 "goes with --transport threads; the launcher says how "
                                 "many ranks else"};
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  try {
    const Job job = job_of(options);
    if (options.transport == "threads") {
      comm::run_ranks(options.ranks,
                      [&](comm::Communicator& communicator) { run_host(communicator, job); });
    } else if (options.transport == "nccl") {
      run_nccl(job);
    } else {
      run_mpi(job);
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_allreduce: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
