#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace fashion {

/// The unsigned bytes of an IDX file, first dimension slowest.
struct IdxArray {
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> values;
};

/// Reads a gzipped (or plain) IDX file of unsigned bytes: magic {0, 0, 8, dimensions}, each size as
/// a big-endian u32, then the values. Format: Y. LeCun, the MNIST database.
/// Throws thinwire::IoError when the file cannot be opened, naming it and the package that brings
/// it; thinwire::FormatError, naming the file, when its bytes are not such an array: not gzip,
/// wrong magic or dimensions, truncated, bytes left over.
IdxArray read_idx(const std::filesystem::path& file, int dimensions);

}  // namespace fashion
