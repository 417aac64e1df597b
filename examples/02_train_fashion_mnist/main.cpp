#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <limits>
#include <string>
#include <thread>

#include "learner.hpp"
#include "ranks.hpp"
#include "report.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/comm/staged.hpp"
#include "thinwire/comm/transports.hpp"
#include "thinwire/core/error.hpp"
#include "trainer.hpp"

namespace {

namespace comm = thinwire::comm;

struct CommandLine {
  fashion::TrainOptions train;
  std::string codec = "none";
  std::string device = "host";
  std::string transport;  // empty: mpi on the host, nccl on GPUs
  int ranks = 1;          // of threads; mpirun says how many with mpi
  std::string json;
};

/// CLI::Range lets NaN through.
CLI::Validator between(float least, float most) {
  const auto words = fmt::format("FLOAT in [{} - {}]", least, most);
  return {[=](const std::string& text) {
            float value = 0;
            const bool good =
                CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
            return good ? std::string{} : fmt::format("{} is not a {}", text, words);
          },
          words};
}

void add_options(CLI::App& app, CommandLine& line) {
  auto& train = line.train;
  app.add_option("--codec", line.codec,
                 "how gradients travel: none, bf16, fp16, int8, int4, sign, topk:DENSITY; error "
                 "feedback by +ef or +noef")
      ->capture_default_str();
  app.add_option("--model", train.model, "mlp (235,146 parameters) or cnn (80,602)")
      ->check(CLI::IsMember({"mlp", "cnn"}))
      ->capture_default_str();
  app.add_option("--epochs", train.epochs, "the first one is learning-rate warm-up")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option("--batch", train.batch, "images a rank and step")
      ->check(CLI::Range(1, 60'000))
      ->capture_default_str();
  app.add_option("--lr", train.lr, "largest learning rate")
      ->check(between(0, 1000))
      ->capture_default_str();
  app.add_option("--momentum", train.momentum)->check(between(0, 1))->capture_default_str();
  // Ranges of signed numbers: an unsigned -1 would be a large number.
  app.add_option("--seed", train.seed, "of initialisation and shuffling")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  app.add_option("--data", train.data, "folder of the gzipped IDX files")->capture_default_str();
  app.add_option("--json", line.json, "write the run to this file");
  app.add_option("--bucket-cap", train.buckets.cap_bytes, "largest bucket in bytes")
      ->check(CLI::Range(std::int64_t{4}, std::int64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--chunks", train.buckets.chunks, "pieces a bucket is exchanged in")
      ->check(CLI::Range(1, 65'536))
      ->capture_default_str();
  app.add_option("--device", line.device, "host, or cuda: one GPU a rank")
      ->check(CLI::IsMember({"host", "cuda"}))
      ->capture_default_str();
  app.add_option("--transport", line.transport,
                 "mpi (start with mpirun -np N), threads, or nccl (mpirun or torchrun); default: "
                 "nccl on GPUs, else mpi")
      ->check(CLI::IsMember({"mpi", "threads", "nccl"}));
  app.add_option("--ranks", line.ranks, "ranks of --transport threads")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
}

void run_rank(comm::Communicator& communicator, const CommandLine& line) {
  if (!line.json.empty()) {
    fashion::together(communicator, [&] {
      if (communicator.rank() == 0) fashion::require_writable(line.json);
    });
  }
  const auto result = fashion::train(communicator, line.train, [](std::string_view text) {
    fmt::print("{}\n", text);
    std::fflush(stdout);
  });
  if (communicator.rank() != 0) return;
  fmt::print("{}", fashion::summary(line.train, result));
  if (!line.json.empty()) fashion::write_run(line.json, line.train, result);
}

void report(const std::exception& error) {
  fmt::print(stderr, "02_train_fashion_mnist: {}\n", error.what());
}

/// Other ranks must hear of an error of this one.
int run_or_abort(comm::Communicator& communicator, const CommandLine& line) {
  try {
    run_rank(communicator, line);
    return 0;
  } catch (const std::exception& error) {
    communicator.abort(error.what());
    report(error);
    // mpirun kills the other ranks when the first one leaves; each shall say why it failed.
    std::this_thread::sleep_for(std::chrono::seconds{1});
    return 1;
  }
}

int run_on_host(const CommandLine& line) {
  if (line.transport == "threads") {
    comm::run_ranks(line.ranks, [&](comm::Communicator& rank) { run_rank(rank, line); });
    return 0;
  }
  return run_or_abort(*comm::make_mpi_communicator(), line);
}

/// NCCL, whose ranks meet over MPI under mpirun and over TCP else; or payloads through host memory.
int run_on_gpus(const CommandLine& line) {
  if (line.transport == "threads") {
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);  // ranks in one process: see staged.hpp
    comm::run_ranks(line.ranks, [&](comm::Communicator& host) {
      fashion::choose_gpu(host.local_rank());
      run_rank(*comm::make_staged_communicator(host), line);
    });
    return 0;
  }
  const bool staged = line.transport == "mpi";
  if (!staged && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) {
    const char* local = std::getenv("LOCAL_RANK");
    fashion::choose_gpu(local != nullptr ? std::atoi(local) : 0);
    return run_or_abort(*comm::make_nccl_communicator(comm::tcp_rendezvous()), line);
  }
  const auto host = comm::make_mpi_communicator();
  fashion::choose_gpu(host->local_rank());
  const auto communicator =
      staged ? comm::make_staged_communicator(*host) : comm::make_nccl_communicator(*host);
  return run_or_abort(*communicator, line);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Trains on Fashion-MNIST with compressed gradients"};
  CommandLine line;
  add_options(app, line);
  try {
    app.parse(argc, argv);
    if (app.count("--ranks") > 0 && line.transport != "threads") {
      throw CLI::ValidationError{"--ranks",
                                 "goes with --transport threads; the launcher says how "
                                 "many ranks else"};
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  try {
    line.train.buckets.codec = thinwire::compress::parse_codec(line.codec);
    if (line.device == "cuda") return run_on_gpus(line);
    THINWIRE_EXPECTS(line.transport != "nccl", thinwire::InvalidArgument,
                     "nccl moves GPU memory: add --device cuda");
    return run_on_host(line);
  } catch (const std::exception& error) {
    report(error);
    return 1;
  }
}
