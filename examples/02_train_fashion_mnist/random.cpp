#include "random.hpp"

#include <utility>

namespace fashion {

std::mt19937_64 make_generator(std::uint64_t seed, Purpose purpose, std::uint32_t index) {
  std::seed_seq key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                    static_cast<std::uint32_t>(purpose), index};
  return std::mt19937_64{key};
}

float uniform(std::mt19937_64& generator, float low, float high) {
  const auto unit = static_cast<float>(generator() >> 40) * 0x1p-24f;
  return low + (high - low) * unit;
}

void shuffle(std::mt19937_64& generator, std::span<std::uint32_t> items) {
  for (std::size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1], items[generator() % i]);
  }
}

}  // namespace fashion
