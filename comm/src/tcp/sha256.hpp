#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace thinwire::comm {

using Sha256 = std::array<std::uint8_t, 32>;

/// SHA-256 of `bytes` (FIPS 180-4).
Sha256 sha256(std::string_view bytes);

/// HMAC-SHA256 (RFC 2104) of `message` under `key`, both of any length.
Sha256 hmac_sha256(std::string_view key, std::string_view message);

/// Compares without telling by its duration where the first difference is.
bool equal_in_constant_time(std::string_view a, std::string_view b);

inline std::string_view text_of(const Sha256& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace thinwire::comm
