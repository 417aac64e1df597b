#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

/// Small Fashion-MNIST files for tests.
namespace fashion::test {

using Bytes = std::vector<std::uint8_t>;

/// A folder that is gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::temp_directory_path() / "thinwire-XXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline Bytes idx_bytes(const std::vector<std::uint32_t>& shape, const Bytes& values) {
  Bytes bytes{0, 0, 8, static_cast<std::uint8_t>(shape.size())};
  for (const auto size : shape) {
    for (const int shift : {24, 16, 8, 0})
      bytes.push_back(static_cast<std::uint8_t>(size >> shift));
  }
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

inline void write_gzip(const std::filesystem::path& file, const Bytes& bytes) {
  const gzFile out = gzopen(file.c_str(), "wb1");
  ASSERT_NE(out, nullptr);
  ASSERT_EQ(gzfwrite(bytes.data(), 1, bytes.size(), out), bytes.size());
  ASSERT_EQ(gzclose(out), Z_OK);
}

/// `count` images that tell their class (item mod 10) by a bright row, in both parts.
inline void write_dataset(const std::filesystem::path& folder, std::uint32_t count) {
  Bytes images;
  Bytes labels;
  for (std::uint32_t item = 0; item < count; ++item) {
    const std::uint32_t label = item % 10;
    labels.push_back(static_cast<std::uint8_t>(label));
    for (std::uint32_t pixel = 0; pixel < 28 * 28; ++pixel) {
      const std::uint32_t noise = (item * 31 + pixel * 17) % 64;
      images.push_back(static_cast<std::uint8_t>(noise + (pixel / 28 == 2 * label + 4 ? 190 : 0)));
    }
  }
  for (const char* part : {"train", "t10k"}) {
    const std::string name{part};
    write_gzip(folder / (name + "-images-idx3-ubyte.gz"), idx_bytes({count, 28, 28}, images));
    write_gzip(folder / (name + "-labels-idx1-ubyte.gz"), idx_bytes({count}, labels));
  }
}

}  // namespace fashion::test
