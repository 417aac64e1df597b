#include "allreduce_values.hpp"

#include <cstring>
#include <string>

#include "thinwire/compress/header.hpp"
#include "thinwire/compress/two_phase_reference.hpp"
#include "thinwire/core/config.hpp"

namespace thinwire::bench {

float gradient_value(int rank, std::int64_t i) {
  const std::uint64_t bits =
      compress::mix64(static_cast<std::uint64_t>(i) << 8 | static_cast<std::uint64_t>(rank));
  std::int32_t sum = 0;
  for (int shift = 0; shift < 64; shift += 16) sum += static_cast<std::int16_t>(bits >> shift);
  return static_cast<float>(sum) * 0x1p-17f;
}

float exact_value(int rank, std::int64_t i) { return static_cast<float>((i % 17 + rank) % 4); }
float exact_sum(int ranks, std::int64_t i) {
  float sum = 0;
  for (int rank = 0; rank < ranks; ++rank) sum += exact_value(rank, i);
  return sum;
}

Bytes make_tensor(std::int64_t elements, DType dtype,
                  const std::function<float(std::int64_t)>& value) {
  Bytes bytes(static_cast<std::size_t>(elements) * size_of(dtype));
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* data = reinterpret_cast<T*>(bytes.data());
    for (std::int64_t i = 0; i < elements; ++i) data[i] = from_float<T>(value(i));
  });
  return bytes;
}

std::int64_t count_different(const Bytes& a, const Bytes& b, std::size_t width) {
  std::int64_t different = 0;
  for (std::size_t i = 0; i < a.size(); i += width) {
    different += std::memcmp(a.data() + i, b.data() + i, width) != 0;
  }
  return different;
}

Bytes make_input(const compress::Plan& plan, int rank, std::int64_t elements, DType dtype) {
  return make_tensor(elements, dtype, [&](std::int64_t i) {
    return plan.plain() ? exact_value(rank, i) : gradient_value(rank, i);
  });
}

std::int64_t sum_over_ranks(comm::Communicator& communicator, std::int64_t value) {
  std::int64_t sum = 0;
  for (const auto& text :
       communicator.control().all_gather(std::to_string(value), config().timeout)) {
    sum += std::stoll(text);
  }
  return sum;
}

Bytes expected_result(const compress::Plan& plan, int ranks, std::int64_t elements, DType dtype) {
  if (plan.plain()) {
    // As the library makes a mean: one rounding of 1 / N and one of the product.
    const float factor = 1.0f / static_cast<float>(ranks);
    return make_tensor(elements, dtype,
                       [&](std::int64_t i) { return exact_sum(ranks, i) * factor; });
  }
  std::vector<Bytes> inputs;
  std::vector<ConstTensorView> views;
  for (int rank = 0; rank < ranks; ++rank) {
    inputs.push_back(
        make_tensor(elements, dtype, [&](std::int64_t i) { return gradient_value(rank, i); }));
    views.emplace_back(inputs.back().data(), elements, dtype);
  }
  Bytes out(inputs.front().size());
  compress::TwoPhaseReference reference{plan};
  reference.allreduce(views, {out.data(), elements, dtype}, {.sequence = 1});
  return out;
}

}  // namespace thinwire::bench
