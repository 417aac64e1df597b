#include "device_messages.hpp"

#include <fmt/format.h>

#include <cstring>
#include <numeric>

#include "../residual_exchange.hpp"
#include "cuda/try.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/cuda/memory.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::comm {
namespace {

/// The sizes of what comes, from everybody's sizes of what goes.
std::vector<std::size_t> sizes_to_receive(Communicator& communicator,
                                          const std::vector<std::size_t>& out_sizes) {
  const std::string_view mine{reinterpret_cast<const char*>(out_sizes.data()),
                              out_sizes.size() * sizeof(std::size_t)};
  const auto texts = communicator.control().all_gather(mine, config().timeout);
  std::vector<std::size_t> in_sizes;
  for (std::size_t from = 0; from < texts.size(); ++from) {
    THINWIRE_EXPECTS(texts[from].size() == mine.size(), FormatError,
                     fmt::format("rank {}: rank {} exchanges something else than residuals",
                                 communicator.rank(), from));
    std::size_t bytes = 0;
    std::memcpy(
        &bytes,
        texts[from].data() + static_cast<std::size_t>(communicator.rank()) * sizeof(std::size_t),
        sizeof bytes);
    in_sizes.push_back(bytes);
  }
  return in_sizes;
}

void copy(void* to, const void* from, std::size_t bytes, StreamView stream) {
  if (bytes == 0) return;
  THINWIRE_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream.handle()));
  THINWIRE_CUDA_TRY(cudaStreamSynchronize(stream.handle()));
}

}  // namespace

std::string exchange_device_messages(Communicator& communicator,
                                     const std::vector<std::string>& messages, StreamView stream) {
  std::vector<std::size_t> out_sizes;
  std::string out;
  for (const std::string& message : messages) {
    out_sizes.push_back(message.size());
    out += message;
  }
  const auto in_sizes = sizes_to_receive(communicator, out_sizes);
  std::string in(std::accumulate(in_sizes.begin(), in_sizes.end(), std::size_t{0}), '\0');

  const auto memory = std::make_shared<ExchangeMemory>();
  const Buffer sent{memory, out.size(), "residual"};
  const Buffer received{memory, in.size(), "residual"};
  copy(sent.data(), out.data(), out.size(), stream);
  communicator
      .all_to_all_v({sent.data(), sent.size(), Device::cuda}, out_sizes, offsets_of(out_sizes),
                    {received.data(), received.size(), Device::cuda}, in_sizes,
                    offsets_of(in_sizes), stream)
      ->wait();
  copy(in.data(), received.data(), in.size(), stream);
  return in;
}

}  // namespace thinwire::comm
