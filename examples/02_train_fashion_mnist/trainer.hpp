#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "gradient_buckets.hpp"
#include "thinwire/comm/communicator.hpp"

namespace fashion {

/// Everything that decides what a run computes. Equal on all ranks.
struct TrainOptions {
  std::filesystem::path data = "/usr/share/datasets/fashion-mnist";
  std::string model = "mlp";
  int epochs = 5;  ///< the first one raises the learning rate, the others let it fall
  int batch = 64;  ///< images a rank and step
  float lr = 0.5f;
  float momentum = 0.0f;
  std::uint64_t seed = 1;
  BucketOptions buckets;
};

/// What a run came to, the same on every rank. Times are means over steps and ranks.
struct TrainResult {
  std::string transport;
  int ranks = 0;
  std::int64_t steps = 0;
  bool on_gpu = false;       ///< the times below are unknown then
  std::size_t buckets = 0;   ///< allreduces a step
  double train_loss = 0;     ///< mean of the last epoch
  double test_accuracy = 0;  ///< share of the test images that are right, from 0 to 1
  double steps_per_s = 0;    ///< training alone, without the evaluation between epochs
  double compute_ms = 0;     ///< processor time of batch, forward, backward and update
  double encode_ms = 0;
  double exchange_ms = 0;  ///< waiting for the wire and for the other ranks
  double decode_ms = 0;
  double codec_ms = 0;  ///< encode and decode of the median step: undisturbed by other programs
  std::uint64_t payload_bytes_per_step = 0;     ///< encoded gradients of one rank
  std::uint64_t wire_bytes_per_step = 0;        ///< what one rank sends to others
  std::uint64_t plain_wire_bytes_per_step = 0;  ///< the same for a ring allreduce of fp32
};

/// A line for people, on rank 0.
using Progress = std::function<void(std::string_view line)>;

/// Collective: trains data-parallel over the ranks of the communicator, on its device, and checks
/// that all end with the same parameters. Throws thinwire's errors, on every rank; when it throws,
/// the caller aborts the communicator, so that no other rank waits in vain.
TrainResult train(thinwire::comm::Communicator& communicator, const TrainOptions& options,
                  const Progress& progress);

}  // namespace fashion
