#include <utility>

#include "bucket_exchange.hpp"

namespace thinwire::comm {
namespace {

void scale_in_place(TensorView tensor, float factor) {
  visit_dtype(tensor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* values = static_cast<T*>(tensor.data);
    for (std::int64_t i = 0; i < tensor.numel; ++i) {
      values[i] = from_float<T>(to_float(values[i]) * factor);
    }
  });
}

/// The transport's own allreduce, untouched. NaN and Inf are not looked for: they go where the
/// plain collective takes them.
class PlainExchange final : public BucketExchange {
 public:
  PlainExchange(const ExchangeParts& parts, compress::Plan plan)
      : BucketExchange{parts, std::move(plan), parts.lanes.reduce->rank()} {}

 private:
  void do_encode(int) override {}

  WorkHandle post_encoded(int) override {
    metrics_.payload_bytes += gradients_.bytes();
    metrics_.wire_bytes += ring_bytes(gradients_.bytes(), ranks());
    return lanes_.reduce->allreduce(gradients_, gradients_, ReduceOp::avg);
  }

  WorkHandle do_combine(int) override { return nullptr; }

  void do_decode(int) override {
    const float factor =
        (call_.inv_scale ? *call_.inv_scale : 1.0f) * (call_.out_scale ? *call_.out_scale : 1.0f);
    if (factor != 1.0f) scale_in_place(gradients_, factor);
  }

  std::span<const std::byte> encoded(int) const override { return {}; }
};

}  // namespace

std::unique_ptr<BucketExchange> make_plain_exchange(const ExchangeParts& parts,
                                                    compress::Plan plan) {
  return std::make_unique<PlainExchange>(parts, std::move(plan));
}

}  // namespace thinwire::comm
