#pragma once

#include <cstddef>
#include <string>
#include <vector>

/// The sizes on the command line of allreduce benchmarks.
namespace thinwire::bench {

/// "64M" in bytes; units K, M and G are powers of 1024. From 1 to 2^62; else throws
/// InvalidArgument.
std::size_t parse_bytes(const std::string& text);

/// `first`, factor times as much and so on, up to `last`. Throws InvalidArgument when that is none,
/// or `first` less than one element of `element_bytes`.
std::vector<std::size_t> parse_sizes(const std::string& first, const std::string& last, int factor,
                                     std::size_t element_bytes);

}  // namespace thinwire::bench
