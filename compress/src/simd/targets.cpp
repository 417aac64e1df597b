// Which SIMD target runs.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cctype>
#include <mutex>

#include "simd/codecs.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/core/config.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

/// highway's name in lower case. Its portable fallback is called scalar whichever it is.
std::string name_of(std::int64_t target) {
  if (target == HWY_EMU128) return "scalar";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

void choose(const std::string& name) {
  if (name.empty()) {
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    return;
  }
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (name_of(target) == name) {
      hwy::GetChosenTarget().Update(target);
      return;
    }
  }
  throw InvalidArgument{fmt::format("SIMD target '{}' is not one of this machine's: {}", name,
                                    fmt::join(simd_targets(), ", "))};
}

}  // namespace

std::vector<std::string> simd_targets() {
  std::vector<std::string> names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    names.push_back(name_of(target));
  }
  return names;
}

void force_simd_target(const std::string& name) {
  simd::use_configured_target();
  choose(name);
}

namespace simd {

void use_configured_target() {
  static std::once_flag once;
  std::call_once(once, [] { choose(config().simd); });
}

namespace {

bool& streaming() {
#if HWY_ARCH_X86
  // A core of Intel's keeps a streamed line in one of its few fill buffers until the memory has it;
  // a line fetched ahead leaves them early, and comes back from the caches.
  static bool pays = !__builtin_cpu_is("intel");
#else
  static bool pays = true;
#endif
  return pays;
}

}  // namespace

bool streaming_pays() { return streaming(); }

void force_streaming(bool pays) { streaming() = pays; }

BlockKernels block_kernels(const CodecSpec& spec) {
  switch (spec.codec) {
    case Codec::none:
      return none_kernels();
    case Codec::bf16:
      return bf16_kernels();
    case Codec::fp16:
      return fp16_kernels();
    case Codec::int8:
      return int8_kernels();
    case Codec::int4:
      return int4_kernels();
    case Codec::sign:
      return sign_kernels(spec.sign_scale);
    case Codec::topk:
    case Codec::mixed:
      break;
  }
  throw InvalidArgument{fmt::format("codec {} has no block kernels", to_string(spec.codec))};
}

}  // namespace simd
}  // namespace thinwire::compress
