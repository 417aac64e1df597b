#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace fashion {

/// What random numbers are for. Each use has its own sequence, so that one more draw here does not
/// change another there.
enum class Purpose : std::uint32_t { initialisation = 0, shuffling = 1 };

/// A generator that depends on nothing but its arguments, the same on every rank and machine.
std::mt19937_64 make_generator(std::uint64_t seed, Purpose purpose, std::uint32_t index);

/// In [low, high). Written out because std::uniform_real_distribution differs by standard library.
float uniform(std::mt19937_64& generator, float low, float high);

/// A random order (Fisher and Yates); std::shuffle differs by standard library too.
void shuffle(std::mt19937_64& generator, std::span<std::uint32_t> items);

}  // namespace fashion
