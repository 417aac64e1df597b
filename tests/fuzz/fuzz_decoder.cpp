#include <cstddef>
#include <cstdint>

#include "decoder_harness.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static thinwire::compress::test::DecoderHarness harness{THINWIRE_FUZZ_CODEC};
  harness({data, size});
  return 0;
}
