#include "idx.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "thinwire/core/error.hpp"

namespace fashion {
namespace {

using thinwire::FormatError;
using thinwire::IoError;

constexpr std::uint8_t unsigned_bytes = 0x08;
// Above any plausible file: a corrupt size must not become a huge allocation.
constexpr std::int64_t most_values = std::int64_t{1} << 30;

struct CloseGzip {
  void operator()(gzFile file) const { gzclose_r(file); }
};
using GzipFile = std::unique_ptr<gzFile_s, CloseGzip>;

GzipFile open(const std::filesystem::path& path) {
  errno = 0;
  GzipFile file{gzopen(path.c_str(), "rb")};
  if (file == nullptr) {
    throw IoError{
        fmt::format("cannot open '{}' ({}); install the Debian or Ubuntu package "
                    "dataset-fashion-mnist, or name the folder of its files with --data",
                    path.string(), errno != 0 ? std::strerror(errno) : "out of memory")};
  }
  return file;
}

// Bytes read into `out`, fewer at the end of the file.
std::size_t read_some(gzFile file, std::span<std::uint8_t> out, const std::string& name) {
  const auto got = gzfread(out.data(), 1, out.size(), file);
  int code = Z_OK;
  const char* reason = gzerror(file, &code);
  if (code == Z_ERRNO) {
    throw IoError{fmt::format("cannot read '{}': {}", name, std::strerror(errno))};
  }
  if (code != Z_OK && code != Z_STREAM_END) {
    throw FormatError{fmt::format("'{}' is corrupt or truncated: {}", name, reason)};
  }
  return got;
}

void read_exactly(gzFile file, std::span<std::uint8_t> out, const std::string& name,
                  std::string_view what) {
  const auto got = read_some(file, out, name);
  if (got != out.size()) {
    throw FormatError{
        fmt::format("'{}' is truncated: {} of {} bytes of its {}", name, got, out.size(), what)};
  }
}

std::int64_t read_u32(gzFile file, const std::string& name, std::string_view what) {
  std::array<std::uint8_t, 4> bytes{};
  read_exactly(file, bytes, name, what);
  return std::int64_t{bytes[0]} << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

}  // namespace

IdxArray read_idx(const std::filesystem::path& path, int dimensions) {
  const auto name = path.string();
  const auto file = open(path);

  const auto magic = read_u32(file.get(), name, "magic number");
  const auto expected = std::int64_t{unsigned_bytes} << 8 | dimensions;
  if (magic != expected) {
    throw FormatError{fmt::format(
        "'{}' is not an IDX file of {}-dimensional unsigned bytes: magic {:08x}, expected {:08x}",
        name, dimensions, magic, expected)};
  }

  IdxArray array;
  std::int64_t values = 1;
  for (int d = 0; d < dimensions; ++d) {
    const auto size = read_u32(file.get(), name, "sizes");
    if (size > most_values / std::max<std::int64_t>(values, 1)) {
      throw FormatError{fmt::format("'{}' claims {} x {} values; at most {} are plausible", name,
                                    values, size, most_values)};
    }
    array.shape.push_back(size);
    values *= size;
  }
  array.values.resize(static_cast<std::size_t>(values));
  read_exactly(file.get(), array.values, name, "values");

  std::array<std::uint8_t, 1> extra{};
  if (read_some(file.get(), extra, name) != 0) {
    throw FormatError{fmt::format("'{}' goes on after its {} values", name, values)};
  }
  return array;
}

}  // namespace fashion
