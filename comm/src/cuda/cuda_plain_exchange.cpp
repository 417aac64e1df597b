#include <utility>

#include "../exchange/bucket_exchange.hpp"
#include "cuda/scale.hpp"
#include "cuda_exchange.hpp"

namespace thinwire::comm {
namespace {

/// The transport's own allreduce; the scales are applied to its result, and only where they are
/// given.
class CudaPlainExchange final : public CudaExchange {
 public:
  CudaPlainExchange(const CudaParts& parts, compress::Plan plan)
      : CudaExchange{parts, std::move(plan)} {}

 private:
  int chunks() const override { return 1; }
  bool has_second() const override { return false; }
  std::size_t first_bytes() const override {
    return static_cast<std::size_t>(plan_.elements()) * size_of(plan_.settings().dtype);
  }

  void encode(int, StreamView) override {
    metrics_.payload_bytes += gradients_.bytes();
    metrics_.wire_bytes += ring_bytes(gradients_.bytes(), ranks());
  }

  void first(int, DeviceWire::Group& wire) override {
    wire.allreduce(gradients_, gradients_, ReduceOp::avg);
  }

  void combine(int, StreamView stream) override {
    if (scaled()) cuda::scale_in_place(gradients_, inv_scale_, out_scale_, stream);
  }

  void decode(int, StreamView) override {}
};

}  // namespace

std::unique_ptr<CudaExchange> make_cuda_plain_exchange(const CudaParts& parts,
                                                       compress::Plan plan) {
  return std::make_unique<CudaPlainExchange>(parts, std::move(plan));
}

}  // namespace thinwire::comm
