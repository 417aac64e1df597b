#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "thinwire/comm/cuda_engine.hpp"
#include "thinwire/comm/nccl.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/cuda/stream.hpp"

namespace comm = thinwire::comm;

int main() {
  const char* local = std::getenv("LOCAL_RANK");
  cudaSetDevice(local != nullptr ? std::atoi(local) : 0);
  const auto ranks = comm::make_nccl_communicator(comm::tcp_rendezvous());

  // Gradients on the GPU, each the number of its rank.
  std::vector<float> values(1'000'000, static_cast<float>(ranks->rank()));
  const thinwire::Buffer gradients{std::make_shared<thinwire::ExchangeMemory>(),
                                   values.size() * sizeof(float), "gradients"};
  cudaMemcpy(gradients.data(), values.data(), gradients.size(), cudaMemcpyHostToDevice);

  // What is reduced together, and how it travels: one bit an element, errors fed back.
  const std::vector<comm::Parameter> parameters{{"weights", {1000, 1000}}};
  const auto sign = comm::one_codec(thinwire::compress::parse_codec("sign"));
  comm::CudaEngine engine{*ranks, comm::make_buckets(parameters, 25 << 20, sign)};

  const thinwire::CudaStream stream;
  engine.submit(0, {gradients.data(), 1'000'000, thinwire::DType::f32, thinwire::Device::cuda},
                stream);
  engine.end_step(stream);  // what is enqueued on `stream` from here on sees the mean
  stream.synchronize();

  cudaMemcpy(values.data(), gradients.data(), sizeof(float), cudaMemcpyDeviceToHost);
  const auto cost = engine.metrics();
  std::printf("rank %d of %d: mean %.2f, sent %.0f KB instead of %.0f KB\n", ranks->rank(),
              ranks->size(), values[0], cost.wire_bytes / 1e3, cost.plain_wire_bytes / 1e3);
}
